//! `netpath install` and `netpath uninstall`

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;

use super::{Cli, Context};
use crate::agent::purge::purge;
use crate::agent::settings::Wishes;
use crate::output::print;
use crate::service::{self, Place};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The root of the system: another folder than / is for packages and images
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,

    /// Where programs and manuals are; with /usr the other files are where a package has them
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    prefix: PathBuf,
}

impl Args {
    fn place(&self) -> Result<Place> {
        Place::new(&self.root, &self.prefix)
    }
}

pub fn install(args: &Args) -> Result<()> {
    let place = args.place()?;
    let paths = service::install(&place, manual()?)?;
    let mut text: String = paths
        .iter()
        .map(|path| format!("installed {}\n", path.display()))
        .collect();
    if place.is_live() {
        text.push_str("start it with: systemctl enable --now netpath\n");
    }
    print(&text)
}

pub fn uninstall(args: &Args, context: &Context) -> Result<()> {
    let place = args.place()?;
    let mut text = String::new();
    if place.is_live() {
        service::stop(&place)?;
        // The service's own settings: /etc/default may name other folders, but then also knows
        // what to purge.
        let wishes = Wishes {
            socket: context.socket.clone(),
            ..Wishes::default()
        };
        for thing in purge(&wishes.settings()?)? {
            text.push_str(&format!("removed {thing}\n"));
        }
    }
    for path in service::uninstall(&place)? {
        text.push_str(&format!("removed {}\n", path.display()));
    }
    print(&text)
}

/// A page for the program and for each of its verbs, by file name.
fn manual() -> Result<Vec<(String, Vec<u8>)>> {
    let mut command = Cli::command();
    command.build();
    let mut pages = Vec::new();
    add_pages(&command, "netpath", &mut pages)?;
    Ok(pages)
}

fn add_pages(
    command: &clap::Command,
    name: &str,
    pages: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone().display_name(name.to_owned()))
        .render(&mut page)
        .with_context(|| format!("cannot write the manual of {name}"))?;
    pages.push((format!("{name}.1"), page));
    let verbs = command.get_subcommands();
    for verb in verbs.filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        add_pages(verb, &format!("{name}-{}", verb.get_name()), pages)?;
    }
    Ok(())
}
