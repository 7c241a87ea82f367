//! Plays with a part left out: each is found, in a schedule that finds it again.
//!
//! A process of its own, since shuttle keeps the first place that it was given for failing schedules.

use std::path::Path;

use shuttle::scheduler::RandomScheduler;
use shuttle::{Config, FailurePersistence, Runner};
use throwto_schedules::{Fault, Play};

const SEED: u64 = 7;
const ENOUGH: usize = 10_000;

/// Shuttle keeps what a failure leaves behind, thread by thread.
fn on_a_new_thread<T: Send + 'static>(search: impl FnOnce() -> T + Send + 'static) -> std::thread::Result<T> {
    std::thread::spawn(search).join()
}

/// The schedule in which the play failed, as shuttle has written it down.
fn failing_schedule(play: Play, folder: &Path) -> Option<String> {
    // A replay writes its failure down, too.
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder).unwrap();
    let mut config = Config::new();
    config.stack_size = 256 << 10;
    config.silence_warnings = true;
    config.failure_persistence = FailurePersistence::File(Some(folder.into()));
    let search =
        move || Runner::new(RandomScheduler::new_from_seed(SEED, ENOUGH), config).run(move || play.run());
    on_a_new_thread(search).err()?;
    let file = std::fs::read_dir(folder).unwrap().next()?.unwrap().path();
    Some(std::fs::read_to_string(file).unwrap())
}

#[test]
fn every_fault_is_found_and_its_schedule_finds_it_again() {
    let folder = std::env::temp_dir().join(format!("throwto-schedules-{}", std::process::id()));
    for fault in Fault::ALL {
        let play = Play::small().without(fault);
        let schedule = failing_schedule(play, &folder)
            .unwrap_or_else(|| panic!("{fault:?} was noticed in none of {ENOUGH} schedules"));
        println!("{fault:?} fails in schedule {schedule}");
        let again = on_a_new_thread(move || shuttle::replay(move || play.run(), &schedule));
        assert!(again.is_err(), "{fault:?}: the same schedule fails again");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
