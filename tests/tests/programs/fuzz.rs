//! Frames made and damaged at random; what must hold is in [`netpath_tests::fuzz`].

use std::env;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use netpath_tests::fuzz::{Fuzzer, Random, read};
use netpath_tests::packets::{L4, Sample};
use netpath_tests::progrun::{V4, on_host};

/// How long it goes on unless `NETPATH_FUZZ_SECONDS` says otherwise, and from which seed
/// unless `NETPATH_FUZZ_SEED` does (`cargo xtask fuzz` sets both). More time only means more
/// of the same sequence.
const SECONDS: u64 = 5;
const SEED: u64 = 20_260_101;

/// Frames that once showed something new.
const CORPUS: &str = "corpus/frames.txt";
const CORPUS_MAX: usize = 150_000;

fn wish(name: &str, usual: u64) -> u64 {
    env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(CORPUS)
}

/// Fuzzes a host whose networks are open, or not.
fn fuzz(open: bool) {
    on_host(|host| {
        let mut fuzzer = Fuzzer::new(host, wish("NETPATH_FUZZ_SEED", SEED), open);
        let end = Instant::now() + Duration::from_secs(wish("NETPATH_FUZZ_SECONDS", SECONDS));
        while Instant::now() < end {
            fuzzer.step();
        }
        fuzzer.check_flows();
        let sum = fuzzer.sum();
        println!("open: {open}, {sum:?}");
        if !open && env::var_os("NETPATH_FUZZ_KEEP").is_some() {
            fuzzer
                .save(&corpus(), CORPUS_MAX)
                .expect("the corpus is written");
        }
        assert!(sum.runs > 1_000, "only {sum:?}");
        let redirected = sum.redirected;
        assert!(
            redirected > sum.runs / 50,
            "the damage is too great: {sum:?}"
        );
        assert!(redirected < sum.runs, "the damage is too small");
    });
}

#[test]
fn damaged_frames_do_no_harm() {
    fuzz(false);
}

#[test]
fn damaged_frames_do_no_harm_in_open_networks() {
    fuzz(true);
}

#[test]
fn what_once_showed_something_new_does_no_harm() {
    let inputs = read(&std::fs::read_to_string(corpus()).expect("the corpus"));
    assert!(inputs.len() > 100, "only {} frames", inputs.len());
    for open in [false, true] {
        on_host(|host| {
            let mut fuzzer = Fuzzer::new(host, SEED, open);
            for (at, frame) in &inputs {
                fuzzer.judge(*at, frame);
            }
            fuzzer.check_flows();
        });
    }
}

/// The agent's own program takes keys from the agent only, but must bear anything.
#[test]
fn the_sweep_program_bears_any_bytes() {
    use aya::{TestRun as _, TestRunOptions};
    on_host(|host| {
        host.out(&Sample::new(V4.a, V4.remote, L4::Udp(1000, 53)));
        let mut random = Random::new(7);
        let program = host.datapath.programs().classifier("np_sweep").unwrap();
        for len in (14..2_600).step_by(13) {
            let bytes: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
            let options = TestRunOptions {
                data_in: Some(&bytes),
                ..TestRunOptions::new()
            };
            // The kernel itself refuses what looks like a cut IP packet.
            let removed = program.test_run(options).map_or(0, |run| run.return_value);
            assert_eq!(removed, 0);
        }
        assert_eq!(host.flows().len(), 1);
    });
}
