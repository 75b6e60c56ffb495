//! By what means L1 hears of changes, and what writes have to say: named in the settings, or chosen by what the upstream allows.
//!
//! All that differs between the means is asked here, by the ears, by `proxy` where it writes, and by `app`. Where the settings
//! leave the choice (`coherence = "auto"`) the server is asked once for each generation, before a connection to it carries
//! anything (`upstream/survey`). A write that was taken up before that, and was done where it should have been told of, is told of
//! with its answer: everyone forgets everything, before its client knows (`proxy/write_guard`, point 4).

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::message::{Envelope, MAX_PAYLOAD, Message};
use super::notice::Notices;
use crate::metrics::{CoherenceMeans, Refusal};
use crate::upstream::Trial;

/// Bytes that fills may bring where the ear has subscribed: Redis keeps no more than 32 MiB for a subscriber, by its default.
const SUBSCRIBER: u64 = 16 << 20;
/// By which an ear has Redis tell it of changes.
const TRACKING: [&[u8]; 3] = [b"CLIENT", b"TRACKING", b"ON"];

/// See the module's head.
#[derive(Debug)]
pub struct CoherenceMode {
    /// A number of [`CoherenceMeans`]; written where `chosen` is.
    means: AtomicU8,
    /// The same, for those who wait until it changes.
    chosen: watch::Sender<CoherenceMeans>,
    is_auto: bool,
    /// Something may go with a write for another reason.
    accompanies: bool,
    /// Whether nothing goes with any write. Follows from the others, and is looked at with each write.
    alone: AtomicBool,
    /// In broadcast mode, the prefixes of the keys that Redis tells of; none: all keys.
    prefixes: Vec<Box<[u8]>>,
    /// How writes tell of themselves, where the channel carries coherence. None: it never does.
    notices: Option<Notices>,
    /// The longest stay of a key where the channel carries coherence, unless the settings give another.
    ceiling: Duration,
}

impl CoherenceMode {
    /// Redis tells of changes to what was read.
    pub fn tracking() -> Self {
        Self::new(CoherenceMeans::Tracking)
    }

    /// Redis tells of changes to all keys with these prefixes; none: to all keys.
    pub fn broadcast(prefixes: Vec<Box<[u8]>>) -> Self {
        Self { prefixes, ..Self::new(CoherenceMeans::Broadcast) }
    }

    /// Those who write tell of it, with notices on the fleet's channel; nothing stays longer than `ceiling`.
    pub fn channel(notices: Notices, ceiling: Duration) -> Self {
        Self { notices: Some(notices), ceiling, ..Self::new(CoherenceMeans::Channel) }
    }

    /// The first of these that the upstream allows, once it was asked; the last not without `notices`.
    pub fn auto(notices: Option<Notices>, ceiling: Duration) -> Self {
        Self { is_auto: true, notices, ceiling, ..Self::new(CoherenceMeans::Undecided) }
    }

    fn new(means: CoherenceMeans) -> Self {
        let (chosen, ceiling) = (watch::Sender::new(means), Duration::ZERO);
        Self {
            means: AtomicU8::new(means as u8),
            chosen,
            is_auto: false,
            accompanies: false,
            alone: AtomicBool::new(means != CoherenceMeans::Channel),
            prefixes: Vec::new(),
            notices: None,
            ceiling,
        }
    }

    /// The same where something else may go with a write.
    #[must_use]
    pub fn accompanied(self, accompanies: bool) -> Self {
        let alone = AtomicBool::new(!accompanies && !self.writes_tell());
        Self { accompanies, alone, ..self }
    }

    /// Whether nothing goes with any write.
    #[inline]
    pub fn writes_go_alone(&self) -> bool {
        self.alone.load(Ordering::Acquire)
    }

    /// What is in force.
    pub fn means(&self) -> CoherenceMeans {
        CoherenceMeans::ALL[usize::from(self.means.load(Ordering::Acquire))]
    }

    /// What is in force, and what will be.
    pub fn follow(&self) -> watch::Receiver<CoherenceMeans> {
        self.chosen.subscribe()
    }

    /// The upstream allows this. True where it was otherwise before.
    pub(super) fn choose(&self, means: CoherenceMeans) -> bool {
        self.means.store(means as u8, Ordering::Release);
        self.alone.store(!self.accompanies && means != CoherenceMeans::Channel, Ordering::Release);
        self.chosen.send_replace(means) != means
    }

    /// What is to be tried at the upstream, in this order, where the choice is left to it: commands of a connection that
    /// speaks RESP3, none of which may be refused. Where one way is allowed those after it are not tried.
    pub fn trials(&self) -> Vec<Trial> {
        let trial = |means, commands: Vec<Vec<Vec<u8>>>| Trial { means, commands };
        let command = |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect::<Vec<_>>();
        let mut trials = vec![
            trial(CoherenceMeans::Tracking, vec![command(&TRACKING)]),
            trial(CoherenceMeans::Broadcast, vec![command(&[&TRACKING[..], &[b"BCAST"]].concat())]),
        ];
        if let Some(notices) = &self.notices {
            let name = notices.channel().as_bytes();
            // A notice of no key: who hears it forgets nothing.
            let message = Message::Forget { keys: Vec::new(), hex: Vec::new() };
            let none = Envelope { origin_id: Some(notices.origin_id().to_owned()), message }.encode();
            let publish = command(&[b"PUBLISH", name, &none]);
            let commands = vec![command(&[b"MULTI"]), publish, command(&[b"EXEC"]), command(&[b"SUBSCRIBE", name])];
            trials.push(trial(CoherenceMeans::Channel, commands));
        }
        if self.is_auto { trials } else { Vec::new() }
    }

    /// How a write tells the fleet of itself; none where Redis tells.
    pub fn notices(&self) -> Option<&Notices> {
        if self.writes_tell() { self.notices.as_ref() } else { None }
    }

    /// Whether writes tell of themselves: the keys of each must be known before a byte of it is sent, and the ears listen to the
    /// fleet's channel.
    pub fn writes_tell(&self) -> bool {
        self.means.load(Ordering::Acquire) == CoherenceMeans::Channel as u8
    }

    /// Whether a write may be refused for the sake of its notice: not where nobody has said that the notice matters.
    pub fn insists(&self) -> bool {
        !self.is_auto
    }

    /// The longest stay of a key, unless the settings give another; none where somebody tells of every change.
    pub fn ceiling(&self) -> Option<Duration> {
        self.writes_tell().then_some(self.ceiling)
    }

    /// Whether it is known that somebody tells of changes: nothing may be kept before.
    pub fn hears(&self) -> bool {
        !matches!(self.means(), CoherenceMeans::Nothing | CoherenceMeans::Undecided)
    }

    /// Whether somebody tells of changes to this key: no other may be kept.
    pub fn covers(&self, key: &[u8]) -> bool {
        self.means() != CoherenceMeans::Broadcast
            || self.prefixes.is_empty()
            || self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    /// The command by which an ear has itself told where `means` are in force: by Redis of changes to what is read there, in
    /// broadcast mode to all keys with certain prefixes; or by those who write, on that same connection, which in RESP3 can read
    /// besides.
    pub(super) fn announcements(&self, means: CoherenceMeans) -> Vec<&[u8]> {
        match (means, &self.notices) {
            (CoherenceMeans::Broadcast, _) => {
                let prefixes = self.prefixes.iter().flat_map(|prefix| [&b"PREFIX"[..], prefix]);
                TRACKING.into_iter().chain([&b"BCAST"[..]]).chain(prefixes).collect()
            }
            (CoherenceMeans::Channel, Some(notices)) => vec![b"SUBSCRIBE", notices.channel().as_bytes()],
            _ => TRACKING.to_vec(),
        }
    }

    /// The largest frame that the ear must read, in bytes, where values of `max_value` are kept; and how many bytes fills may bring
    /// at once.
    pub(super) fn ear_limits(&self, max_value: u64) -> (u64, u64) {
        if self.writes_tell() { (max_value.max(MAX_PAYLOAD as u64), SUBSCRIBER) } else { (max_value, u64::MAX) }
    }

    /// Whether this process is who said that on the channel.
    pub(super) fn is_own(&self, origin_id: Option<&str>) -> bool {
        self.notices().is_some_and(|notices| origin_id == Some(notices.origin_id()))
    }
}

impl CoherenceMeans {
    /// What a user lacks where Redis refuses that command.
    pub(super) fn refusal(self) -> Refusal {
        if self == Self::Channel { Refusal::Subscribe } else { Refusal::Tracking }
    }

    /// Whether Redis tells of changes at the end of a turn of its event loop, and may answer others before.
    pub(super) fn tells_in_turns(self) -> bool {
        self == Self::Broadcast
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notices() -> Notices {
        Notices::new("c".into(), "me".into())
    }

    fn modes() -> [CoherenceMode; 4] {
        let broadcast = |prefixes: &[&str]| {
            CoherenceMode::broadcast(prefixes.iter().map(|prefix| prefix.as_bytes().into()).collect())
        };
        let channel = CoherenceMode::channel(notices(), Duration::from_secs(9));
        [CoherenceMode::tracking(), broadcast(&[]), broadcast(&["a:", "b:"]), channel]
    }

    #[test]
    fn each_mode_has_itself_told_in_its_own_way() {
        let said = modes().map(|mode| mode.announcements(mode.means()).join(&b' '));
        let tracking = &b"CLIENT TRACKING ON"[..];
        let prefixes = &b"CLIENT TRACKING ON BCAST PREFIX a: PREFIX b:"[..];
        assert_eq!(said, [tracking, b"CLIENT TRACKING ON BCAST", prefixes, b"SUBSCRIBE c"]);
        let lacks = modes().map(|mode| mode.means().refusal());
        assert_eq!(lacks, [Refusal::Tracking, Refusal::Tracking, Refusal::Tracking, Refusal::Subscribe]);
        assert_eq!(modes().map(|mode| mode.means().tells_in_turns()), [false, true, true, false]);
        assert_eq!(modes().map(|mode| mode.ceiling()), [None, None, None, Some(Duration::from_secs(9))]);
    }

    #[test]
    fn only_what_somebody_tells_of_is_kept() {
        assert_eq!(modes().map(|mode| mode.covers(b"b:1")), [true; 4]);
        assert_eq!(modes().map(|mode| mode.covers(b"c:1")), [true, true, false, true]);
    }

    #[test]
    fn where_writes_tell_the_ear_reads_messages_and_knows_its_own() {
        assert_eq!(modes().map(|mode| mode.writes_tell()), [false, false, false, true]);
        assert_eq!(modes().map(|mode| mode.is_own(Some("me"))), [false, false, false, true]);
        assert!(!modes().iter().any(|mode| mode.is_own(Some("another")) || mode.is_own(None)));
        let [tracking, .., channel] = modes();
        assert_eq!(tracking.ear_limits(1), (1, u64::MAX));
        assert_eq!(channel.ear_limits(1), (MAX_PAYLOAD as u64, SUBSCRIBER));
        assert_eq!(channel.ear_limits(1 << 30).0, 1 << 30);
    }

    #[test]
    fn what_is_left_to_the_upstream_is_tried_in_order_and_all_else_not() {
        let means = |mode: &CoherenceMode| mode.trials().iter().map(|trial| trial.means).collect::<Vec<_>>();
        let all = [CoherenceMeans::Tracking, CoherenceMeans::Broadcast, CoherenceMeans::Channel];
        assert_eq!(means(&CoherenceMode::auto(Some(notices()), Duration::ZERO)), all);
        assert_eq!(means(&CoherenceMode::auto(None, Duration::ZERO)), all[..2], "there is no channel");
        assert!(modes().iter().all(|mode| mode.trials().is_empty()));
    }

    #[test]
    fn a_choice_is_in_force_at_once_and_told_where_it_is_another() {
        let mode = CoherenceMode::auto(Some(notices()), Duration::from_secs(9));
        let follower = mode.follow();
        assert!(mode.means() == CoherenceMeans::Undecided && mode.notices().is_none() && mode.ceiling().is_none());
        assert!(!mode.hears(), "it is not known who would tell");
        assert!(mode.choose(CoherenceMeans::Nothing) && !mode.hears());
        assert!(mode.choose(CoherenceMeans::Channel) && mode.hears());
        assert!(mode.notices().is_some() && mode.ceiling().is_some() && !mode.insists());
        assert!(!mode.choose(CoherenceMeans::Channel));
        assert!(mode.choose(CoherenceMeans::Tracking) && mode.notices().is_none());
        assert_eq!(*follower.borrow(), CoherenceMeans::Tracking);
    }
}
