//! Random SIGKILLs of worker and front.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::common::client::request_for;
use crate::common::eventually;
use crate::faults::Scene;
use crate::row::{Act, SOON};
use crate::run::{Outcome, well_since};
use crate::{RANDOM, runtime};

/// What callers may see when the front is killed.
const MAY_SEE: &[&str] = &["Unavailable", "DeadlineExceeded"];

/// The longest pause before a kill.
const PAUSE: Duration = Duration::from_millis(300);

/// The longest pause between the kill of a worker and that of the front beside it: a login of the
/// next worker takes about as long.
const CLOSE: Duration = Duration::from_millis(60);

/// Beats without trouble before the next kill.
const WELL: usize = 2;

/// Kills so many times, and tells after each kill how many that were.
pub(crate) fn run(kills: usize, seed: Option<u64>, told: impl Fn(usize)) -> Outcome {
    let seed = seed.unwrap_or_else(rand::random);
    println!("random kills: --kills {kills} --seed {seed}");
    runtime().block_on(kill_at_random(kills, seed, told))
}

async fn kill_at_random(kills: usize, seed: u64, told: impl Fn(usize)) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    let mut outcome = Outcome {
        name: RANDOM.to_owned(),
        fault: format!("{kills} SIGKILLs of worker and front"),
        moment: format!("at random, seed {seed}"),
        ..Outcome::default()
    };
    let mut scene = Scene::new(&[], false).await;
    scene.call(4).await;
    let mut written = Vec::new();
    let mut done = 0;
    while done < kills {
        tokio::time::sleep(PAUSE.mul_f64(random.random())).await;
        let (worker, front) = match random.random_range(0..4) {
            0 | 1 => (true, false),
            2 => (false, true),
            // The worker that takes its place is in the middle of its login then.
            _ => (true, true),
        };
        if worker {
            kill_a_worker(&mut scene, &mut random).await;
            done += 1;
        }
        if front && done < kills {
            if worker {
                tokio::time::sleep(CLOSE.mul_f64(random.random())).await;
            }
            scene.act(Act::Front(Signal::SIGKILL)).await;
            scene.act(Act::StartFront).await;
            done += 1;
        }
        let killed = Instant::now();
        let watch = scene.watch.as_ref().unwrap();
        let well = well_since(watch, killed, WELL).await.duration_since(killed);
        outcome.well_after = outcome.well_after.max(well);
        outcome.check(well <= SOON, || format!("after kill {done} all was well after {well:.1?}"));
        written.push(write(&scene, &mut random).await);
        told(done);
    }
    outcome.take(scene.watch.as_mut().unwrap(), MAY_SEE);
    let client = scene.daemon.client().await;
    for (plaintext, encrypted) in written {
        let back = client.decrypt(request_for(&encrypted)).await;
        outcome.check(back.is_ok_and(|back| back == plaintext), || "a seed is lost".to_owned());
    }
    // The token is whole: it can be read, and logged in to.
    scene.token.run(&["key", "list"]).expect(0, &[]);
    drop(client);
    scene.watch = None;
    scene.daemon.stop().await;
    outcome
}

/// One that is logged in: who is killed while SoftHSM writes its token leaves half of one.
async fn kill_a_worker(scene: &mut Scene, random: &mut StdRng) {
    let daemon = &scene.daemon;
    let ended = || daemon.count("the worker process");
    let started = || daemon.count("the worker is logged in");
    let settled = async || {
        let workers = daemon.workers();
        (workers.len() == 2 && started() == 2 + ended()).then_some(workers)
    };
    let workers = eventually("two workers, both logged in", settled).await;
    workers[random.random_range(0..2)].signal(Signal::SIGKILL);
}

async fn write(scene: &Scene, random: &mut StdRng) -> (Vec<u8>, p11_kms::proto::EncryptResponse) {
    let plaintext: Vec<u8> = (0..32).map(|_| random.random()).collect();
    let encrypted = scene.daemon.client().await.encrypt(&plaintext).await.unwrap();
    (plaintext, encrypted)
}
