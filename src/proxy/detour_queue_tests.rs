//! The order of detours: each transition, and what holds however answers, redirects, losses and moving slots interleave.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn at(place: u64) -> ReplyPlace {
    ReplyPlace::at(place)
}

fn slot(number: usize) -> Option<HashSlot> {
    HashSlot::nth(number)
}

/// A session that has sent so many commands.
fn queue(sent: u64) -> DetourQueue<&'static str> {
    DetourQueue::new(at(sent))
}

/// That these are answered.
fn answered(places: &[u64]) -> impl Fn(ReplyPlace) -> bool {
    let places: Vec<_> = places.iter().map(|&place| at(place)).collect();
    move |place| places.contains(&place)
}

#[test]
fn a_detour_waits_for_all_that_was_sent_behind_it() {
    let mut queue = queue(3);
    queue.redirected(at(0), slot(1), "a");
    assert_eq!(queue.next(answered(&[])), DetourStep::Wait);
    queue.carried_out(at(1), slot(2));
    assert_eq!(queue.next(answered(&[1])), DetourStep::Wait, "one of another slot is still under way");
    queue.carried_out(at(2), slot(2));
    assert_eq!(queue.next(answered(&[1, 2])), DetourStep::Send("a"));
    assert!(queue.is_under_way(at(0)));
    assert_eq!(queue.next(answered(&[1, 2])), DetourStep::Wait, "until it is answered");
    assert_eq!(queue.next(answered(&[0, 1, 2])), DetourStep::Over);
}

#[test]
fn those_of_one_slot_go_one_at_a_time_in_their_order() {
    let mut queue = queue(2);
    queue.redirected(at(0), slot(1), "a");
    assert_eq!(queue.next(answered(&[])), DetourStep::Wait);
    queue.redirected(at(1), slot(1), "b");
    assert_eq!(queue.next(answered(&[])), DetourStep::Send("a"));
    assert_eq!(queue.next(answered(&[])), DetourStep::Wait);
    assert_eq!(queue.next(answered(&[0])), DetourStep::Send("b"));
    assert_eq!(queue.next(answered(&[0, 1])), DetourStep::Over);
}

#[test]
fn what_was_overtaken_for_its_slot_is_answered_by_its_error() {
    let mut queue = queue(3);
    queue.redirected(at(0), slot(1), "mset a b");
    queue.carried_out(at(1), slot(1));
    assert_eq!(queue.next(answered(&[1])), DetourStep::Refuse("mset a b"), "at once");
    queue.redirected(at(2), slot(1), "get");
    queue.carried_out(at(1), slot(1));
    assert_eq!(queue.next(answered(&[0, 1])), DetourStep::Send("get"), "what came before it does not count");
}

#[test]
fn one_that_is_redirected_again_goes_before_those_behind_it() {
    let mut queue = queue(2);
    queue.redirected(at(0), slot(1), "a");
    queue.redirected(at(1), slot(1), "b");
    assert_eq!(queue.next(answered(&[])), DetourStep::Send("a"));
    queue.redirected(at(0), slot(1), "a again");
    assert!(!queue.is_under_way(at(0)));
    assert_eq!(queue.next(answered(&[])), DetourStep::Send("a again"));
    assert_eq!(queue.next(answered(&[0])), DetourStep::Send("b"));
}

#[test]
fn one_of_another_node_may_be_redirected_later_though_it_was_sent_earlier() {
    let mut queue = queue(3);
    queue.redirected(at(2), slot(2), "c");
    assert_eq!(queue.next(answered(&[])), DetourStep::Send("c"));
    queue.redirected(at(0), slot(1), "a");
    assert_eq!(queue.next(answered(&[2])), DetourStep::Wait, "what is between them is under way");
    assert_eq!(queue.next(answered(&[1, 2])), DetourStep::Send("a"));
}

#[test]
fn what_names_no_key_has_its_own_order() {
    let mut queue = queue(2);
    queue.redirected(at(0), None, "flushall");
    queue.carried_out(at(1), slot(0));
    assert_eq!(queue.next(answered(&[1])), DetourStep::Send("flushall"));
}

const SLOTS: usize = 3;

/// One session that sends numbered commands to two nodes, between which slots move.
#[derive(Default)]
struct Course {
    /// The slot of each command, by its place.
    sent: Vec<usize>,
    /// To which node each went at first.
    node: Vec<usize>,
    /// Which node serves each slot, and which the session believes to serve it.
    serves: [usize; SLOTS],
    believed: [usize; SLOTS],
    lanes: [VecDeque<usize>; 2],
    queue: Option<DetourQueue<usize>>,
    done: Vec<usize>,
    refused: Vec<usize>,
}

impl Course {
    fn is_answered(&self, place: usize) -> bool {
        self.done.contains(&place) || self.refused.contains(&place)
    }

    /// The client's next command, where the session may take it up.
    fn send(&mut self, slot: usize) {
        let node = self.believed[slot];
        let elsewhere =
            (0..self.sent.len()).any(|at| self.sent[at] == slot && self.node[at] != node && !self.is_answered(at));
        if self.queue.is_none() && !elsewhere {
            self.lanes[node].push_back(self.sent.len());
            self.sent.push(slot);
            self.node.push(node);
        }
    }

    /// A node answers what it was sent first: it does it, or sends it elsewhere, which it may do for other reasons as well.
    fn answer(&mut self, node: usize, refuses: bool) {
        let Some(place) = self.lanes[node].pop_front() else { return };
        let slot = self.sent[place];
        if self.serves[slot] != node || refuses {
            return self.redirect(place);
        }
        self.done.push(place);
        if let Some(queue) = &mut self.queue {
            queue.carried_out(at(place as u64), tests::slot(slot));
        }
    }

    fn redirect(&mut self, place: usize) {
        let end = at(self.sent.len() as u64);
        let queue = self.queue.get_or_insert_with(|| DetourQueue::new(end));
        queue.redirected(at(place as u64), slot(self.sent[place]), place);
    }

    /// The connection is lost before anything that waits on it was written.
    fn lose(&mut self, node: usize) {
        for place in std::mem::take(&mut self.lanes[node]) {
            self.redirect(place);
        }
    }

    fn step(&mut self, asks: bool) {
        let Some(mut queue) = self.queue.take() else { return };
        let answers = (self.done.clone(), self.refused.clone());
        let is_answered = |place| {
            let is = |known: &usize| at(*known as u64) == place;
            answers.0.iter().any(is) || answers.1.iter().any(is)
        };
        match queue.next(is_answered) {
            DetourStep::Over => return,
            DetourStep::Wait => {}
            DetourStep::Refuse(place) => {
                assert!(self.done.iter().any(|&done| done > place && self.sent[done] == self.sent[place]));
                self.refused.push(place);
            }
            DetourStep::Send(place) => {
                let slot = self.sent[place];
                let node = if asks { self.serves[slot] } else { self.believed[slot] };
                self.lanes[node].push_back(place);
            }
        }
        self.queue = Some(queue);
    }

    /// All settles: nothing moves any more.
    fn settle(&mut self) {
        self.believed = self.serves;
        for _ in 0..10 * self.sent.len() + 10 {
            self.step(false);
            (0..2).for_each(|node| self.answer(node, false));
        }
    }
}

proptest! {
    #[test]
    fn however_slots_move_each_command_is_done_once_in_its_slots_order_or_answered_by_an_error(
        steps in prop::collection::vec((0..8_u8, 0..SLOTS, any::<bool>()), 1..120),
    ) {
        let mut course = Course::default();
        for (what, slot, choice) in steps {
            match what {
                0 | 1 => course.send(slot),
                2 => course.answer(0, false),
                3 => course.answer(1, false),
                4 => course.answer(slot % 2, choice),
                5 => {
                    course.serves[slot] = usize::from(choice);
                    course.believed[slot] = if slot == 0 { usize::from(choice) } else { course.believed[slot] };
                }
                6 if choice => course.lose(slot % 2),
                6 => course.believed[slot] = course.serves[slot],
                _ => course.step(choice),
            }
        }
        course.settle();
        prop_assert!(course.queue.is_none(), "it ends");
        for slot in 0..SLOTS {
            let done: Vec<_> = course.done.iter().filter(|&&place| course.sent[place] == slot).collect();
            prop_assert!(done.is_sorted_by(|a, b| a < b), "out of order, or doubled: {done:?}");
        }
        for place in 0..course.sent.len() {
            let times = course.done.iter().chain(&course.refused).filter(|&&known| known == place).count();
            prop_assert_eq!(times, 1, "lost or doubled: {}", place);
        }
    }
}
