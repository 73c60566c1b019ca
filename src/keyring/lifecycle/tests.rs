use super::super::kek::tests::{POLICY, good_key};
use super::super::ring::Sorted;
use super::*;

const DELAY: Duration = Duration::from_secs(60);
const RULES: Rules = Rules { delay: DELAY, reinstate: None };

/// One node, and a clock.
struct Node {
    lifecycle: Lifecycle,
    record: Record,
    rules: Rules,
    now: Instant,
}

impl Node {
    fn new() -> Self {
        let lifecycle = Lifecycle::default();
        Self { lifecycle, record: Record::default(), rules: RULES, now: Instant::now() }
    }

    /// Looks after that time. Each KEK is written as generation and fingerprint.
    fn sees(&mut self, after: u64, keks: &[(u32, u8)]) -> Decision {
        self.now += Duration::from_secs(after);
        let keys = keks.iter().map(|(number, fill)| good_key(*number, *fill)).collect();
        let sorted = Sorted::new(keys, POLICY, &self.record);
        let time = Timestamp::new(1);
        let (before, noted, clocks) = (&self.record, Record::default(), (self.now, time));
        let decision = self.lifecycle.decide(&sorted.keks, before, &noted, self.rules, clocks);
        self.record = decision.record.clone();
        decision
    }

    /// Generation, epoch and fingerprint of what is written with.
    fn active(&self) -> (u32, u32, u8) {
        let active = self.record.active.as_ref().unwrap();
        let fill = active.fingerprint.as_bytes()[0];
        (active.generation.number(), active.epoch.number(), fill)
    }

    fn put_back(&mut self, generation: u32, epoch: u32) {
        let epoch = Epoch::new(epoch).unwrap();
        let generation = Generation::new(generation);
        self.rules.reinstate = Some(Reinstated { epoch, generation });
    }
}

#[test]
fn at_first_there_is_nothing_to_wait_for() {
    let mut node = Node::new();
    assert_eq!(node.sees(0, &[(1, 1), (2, 2)]).due, None);
    assert_eq!(node.active(), (2, 0, 2));
}

#[test]
fn a_new_generation_waits_its_time_and_says_when_it_is_due() {
    let mut node = Node::new();
    node.sees(0, &[(1, 1)]);
    let seen = node.sees(10, &[(1, 1), (2, 2)]);
    assert_eq!((node.active(), seen.due), ((1, 0, 1), Some(node.now + DELAY)));
    node.sees(59, &[(1, 1), (2, 2)]);
    assert_eq!(node.active(), (1, 0, 1));
    node.sees(1, &[(1, 1), (2, 2)]);
    assert_eq!(node.active(), (2, 0, 2));
}

#[test]
fn one_that_was_out_of_view_counts_anew() {
    let mut node = Node::new();
    node.sees(0, &[(1, 1)]);
    node.sees(1, &[(1, 1), (2, 2)]);
    node.sees(50, &[(1, 1)]);
    node.sees(1, &[(1, 1), (2, 2)]);
    node.sees(50, &[(1, 1), (2, 2)]);
    assert_eq!(node.active(), (1, 0, 1));
}

#[test]
fn of_several_that_wait_each_has_its_own_time() {
    let mut node = Node::new();
    node.sees(0, &[(1, 1)]);
    node.sees(1, &[(1, 1), (2, 2)]);
    node.sees(30, &[(1, 1), (2, 2), (3, 3)]);
    let seen = node.sees(30, &[(1, 1), (2, 2), (3, 3)]);
    assert_eq!(node.active(), (2, 0, 2), "generation 3 has waited for 30 s");
    assert_eq!(seen.due, Some(node.now + Duration::from_secs(30)));
    node.sees(30, &[(1, 1), (2, 2), (3, 3)]);
    assert_eq!(node.active(), (3, 0, 3));
}

#[test]
fn a_second_kek_of_the_active_generation_settles_it_once_and_for_all() {
    let mut node = Node::new();
    node.sees(0, &[(1, 5)]);
    node.sees(1, &[(1, 5), (1, 4), (1, 6)]);
    node.sees(60, &[(1, 5), (1, 4), (1, 6)]);
    assert_eq!(node.active(), (1, 0, 4), "the lower one, after its delay");
    node.sees(600, &[(1, 5), (1, 6)]);
    assert_eq!(node.active(), (1, 0, 4), "never back to the higher one");
}

#[test]
fn with_nothing_to_write_with_a_newer_one_does_not_wait() {
    let mut node = Node::new();
    node.sees(0, &[(1, 1), (2, 2)]);
    node.sees(1, &[(1, 1)]);
    assert_eq!(node.active(), (2, 0, 2), "vanished, and not replaced by an older one");
    node.sees(1, &[(1, 1), (3, 3)]);
    assert_eq!(node.active(), (3, 0, 3));
}

#[test]
fn a_token_that_fails_to_show_a_kek_once_makes_nobody_hurry() {
    let mut node = Node::new();
    node.sees(0, &[(1, 1)]);
    node.sees(1, &[(1, 1), (2, 2)]);
    node.sees(1, &[(2, 2)]);
    node.sees(1, &[(1, 1), (2, 2)]);
    assert_eq!(node.active(), (1, 0, 1));
}

#[test]
fn one_that_is_put_back_is_active_at_once_and_has_a_new_name() {
    let mut node = Node::new();
    node.sees(0, &[(1, 1)]);
    let old = node.record.active.clone().unwrap().key_id;
    node.sees(60, &[(1, 1), (2, 2)]);
    node.sees(60, &[(1, 1), (2, 2)]);
    node.put_back(1, 1);
    node.sees(1, &[(1, 1), (2, 2)]);
    assert_eq!(node.active(), (1, 1, 1));
    assert_ne!(node.record.active.clone().unwrap().key_id, old);
    node.sees(600, &[(1, 1), (2, 2)]);
    assert_eq!(node.active(), (1, 1, 1), "generation 2 was active before");
    // The config may stay as it is: what is newer than all goes on.
    node.sees(1, &[(1, 1), (2, 2), (3, 3)]);
    node.sees(60, &[(1, 1), (2, 2), (3, 3)]);
    assert_eq!(node.active(), (3, 0, 3));
}

#[test]
fn one_is_put_back_also_over_what_only_other_nodes_have_written_with() {
    let [mut node, mut ahead] = [Node::new(), Node::new()];
    node.sees(0, &[(1, 1), (2, 2)]);
    ahead.sees(0, &[(1, 1), (2, 2), (3, 3)]);
    node.put_back(1, 1);
    let sorted = Sorted::new(vec![good_key(1, 1), good_key(3, 3)], POLICY, &node.record);
    let clocks = (node.now, Timestamp::new(1));
    let (keks, before) = (&sorted.keks, &node.record);
    let decision = node.lifecycle.decide(keks, before, &ahead.record, node.rules, clocks);
    let active = decision.record.active.unwrap();
    assert_eq!(active.generation.number(), 1);
    assert_eq!(active.highest_generation.number(), 3);
}

#[test]
fn one_that_is_put_back_may_vanish_like_any_other() {
    let mut node = Node::new();
    node.sees(0, &[(1, 1), (2, 2)]);
    node.put_back(1, 1);
    node.sees(1, &[(1, 1), (2, 2)]);
    node.sees(1, &[(2, 2)]);
    assert_eq!(node.active(), (1, 1, 1), "generation 2 is not taken again");
}

#[test]
fn a_used_epoch_is_refused_with_the_remedy() {
    let mut node = Node::new();
    node.sees(0, &[(1, 1), (2, 2)]);
    node.put_back(1, 2);
    assert_eq!(node.sees(1, &[(1, 1), (2, 2)]).trouble, None);
    node.put_back(2, 2);
    let trouble = node.sees(1, &[(1, 1), (2, 2)]).trouble.unwrap();
    assert!(trouble.contains("use a higher epoch"), "{trouble}");
    node.put_back(2, 1);
    let trouble = node.sees(1, &[(1, 1), (2, 2)]).trouble.unwrap();
    assert!(trouble.contains("remove it"), "{trouble}");
    assert_eq!(node.active(), (1, 2, 1));
    node.put_back(9, 3);
    let trouble = node.sees(1, &[(1, 1), (2, 2)]).trouble.unwrap();
    assert!(trouble.contains("no usable KEK of generation 9"), "{trouble}");
    assert_eq!(node.active(), (1, 2, 1));
}

#[test]
fn a_node_that_runs_counts_for_itself_and_one_that_starts_takes_over() {
    let [mut ahead, mut behind] = [Node::new(), Node::new()];
    behind.sees(0, &[(1, 1)]);
    ahead.sees(0, &[(1, 1), (2, 2)]);
    assert_eq!(take_over(&behind.record, &ahead.record, false).active, behind.record.active);
    assert_eq!(take_over(&behind.record, &ahead.record, true).active, ahead.record.active);
    assert_eq!(take_over(&ahead.record, &behind.record, true).active, ahead.record.active);
    let empty = Record::default();
    assert_eq!(take_over(&empty, &ahead.record, true).active, ahead.record.active);
}

#[test]
fn a_node_follows_its_neighbours_to_one_that_was_put_back_but_never_twice() {
    let [mut one, mut other] = [Node::new(), Node::new()];
    one.sees(0, &[(1, 1), (2, 2)]);
    other.sees(0, &[(1, 1), (2, 2)]);
    one.put_back(1, 1);
    one.sees(1, &[(1, 1), (2, 2)]);
    other.record = take_over(&other.record, &one.record, false);
    assert_eq!(other.active(), (1, 1, 1));
    // A node that has gone on to generation 3 stays there, whoever is late with his config.
    one.sees(1, &[(1, 1), (2, 2), (3, 3)]);
    one.sees(60, &[(1, 1), (2, 2), (3, 3)]);
    let mut late = Node::new();
    late.sees(0, &[(1, 1), (2, 2), (3, 3)]);
    late.put_back(1, 1);
    late.sees(1, &[(1, 1), (2, 2), (3, 3)]);
    assert_eq!(late.active(), (1, 1, 1));
    for starting in [true, false] {
        let after = take_over(&one.record, &late.record, starting);
        assert_eq!(after.active, one.record.active);
    }
}
