//! Options about names, shared by `run` and `attach`.

use crate::dns::options::Wishes;

#[derive(Debug, clap::Args)]
pub struct NameArgs {
    /// A server to ask for names of the world [default: the host's]
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,

    /// A domain to complete names with; "." for none [default: the host's]
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,

    /// An option for resolv.conf, like ndots:2 [default: the host's]
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,

    /// A line for /etc/hosts; the address may be "host-gateway", which is the host's
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,

    /// A name for another container (deprecated: make a network of your own instead)
    #[arg(long, value_name = "CONTAINER[:NAME]")]
    link: Vec<String>,
}

impl From<NameArgs> for Wishes {
    fn from(args: NameArgs) -> Self {
        Self {
            dns: args.dns,
            dns_search: args.dns_search,
            dns_option: args.dns_option,
            add_host: args.add_host,
            link: args.link,
        }
    }
}
