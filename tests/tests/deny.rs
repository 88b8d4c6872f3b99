//! Denied sources and malformed packets, dropped at the uplink before the stack sees them.

use netpath_tests::lab::{HOST4, Lab, OUT4, OUT6, UPLINK, eventually};
#[test]
fn peek() {
    let mut lab = Lab::without_agent();
    let show = |lab: &Lab| println!("{}", lab.outside(&["sh","-c","ethtool -k eth0 | egrep 'segmentation-off|generic-rec|large-rec|scatter-gather:|checksumming'"]).ok() + &lab.host(&["sh","-c",&format!("ethtool -k {UPLINK} | egrep 'segmentation-off|generic-rec|large-rec|scatter-gather:|checksumming'; ip -d link show {UPLINK}")]).ok());
    show(&lab);
    for mode in ["native","generic","auto"] {
        lab.agent_options(&["--xdp", mode]);
        lab.start_agent();
        println!("=== {mode} {}", lab.netpath(&["status"]).ok());
        show(&lab);
        lab.netpath(&["deny","add","203.0.113.0/24"]);
        println!("{}", lab.netpath(&["status"]).ok());
        lab.netpath(&["deny","rm","203.0.113.0/24"]);
        println!("{}", lab.netpath(&["status"]).ok());
        println!("{}", lab.netpath(&["drops", "--all"]).ok());
        println!("{}", lab.agent_log());
        lab.purge();
    }
}
