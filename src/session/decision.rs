//! What is done with a command: decided once, when it is taken up, from its row and from what the session is at that moment.
//!
//! Nothing is done here. Where somebody has to be asked first, that is the decision; the answer leads to the next one, and no
//! question is asked twice. `dispatch` carries out what is decided.
//!
//! Holds contract points 1 and 2: what a command may go on follows from its row and from what is unanswered before it.

use super::LARGE_REQUEST;
use crate::command::{self, Effect, Route, Spec, Spread, Verb};
use crate::resp::Request;

/// What is done with a command.
#[derive(Clone, Copy, Debug)]
pub(super) enum Decision {
    /// It is asked whether the client may act at all. What it may, is decided then.
    Admit,
    /// Redis is asked whether it still accepts what the client proved.
    Prove,
    /// Redis is asked whether it takes so many arguments, which the table does not know.
    Widen(&'static Spec),
    /// It is a `CREMA` that means nothing.
    Mistake,
    /// It is a login where none is possible.
    NoLogin,
    /// It is refused: clients may not use it.
    Deny(&'static Spec),
    /// The client is closed without an answer.
    Close(&'static Spec),
    /// Redis is asked what it is, for the table does not know it.
    Foreign,
    /// The session acts on it itself.
    Verb(Verb, &'static Spec),
    /// It concerns several nodes of a cluster, or the cluster itself.
    Spread(&'static Spec),
    /// It goes on a lane, or is answered out of memory.
    Lane(&'static Spec),
    /// The same, once a loan that is over has been given back.
    LaneAfterLoan(&'static Spec),
    /// It goes on a private connection.
    Private(&'static Spec),
    /// The same, and so does all that comes after it.
    Apart(&'static Spec),
}

/// What has been asked about a command, in this order. What was asked once is not asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Inquiry {
    Nothing,
    Admission,
    Proof,
    Arguments,
}

/// What a session is at one moment, as far as it decides on a command. Nothing is looked at that does not matter.
pub(super) trait Facts {
    /// The client may act.
    fn is_admitted(&self) -> bool;
    /// Redis may have ended what the client proved.
    fn is_doubted(&self) -> bool;
    /// Passwords are crema's own.
    fn keeps_passwords(&self) -> bool;
    /// Clients may not use something.
    fn is_restricted(&self) -> bool;
    /// Clients may not use this.
    fn is_denied(&self, spec: &Spec) -> bool;
    /// Several servers stand behind the address, and one connection leads to one of them.
    fn is_several(&self) -> bool;
    /// Several servers are behind, each of which serves some keys.
    fn is_cluster(&self) -> bool;
    /// Its keys are in several slots, and it may be taken apart.
    fn has_several_slots(&self, spec: &Spec, request: Request<'_>) -> bool;
    /// Commands that are no reads would hold up others on a lane.
    fn holds_writes(&self) -> bool;
    /// The client reads nothing and asks on: a private connection answers.
    fn is_crowded(&self) -> bool;
    /// The client has begun a transaction.
    fn is_in_transaction(&self) -> bool;
    /// Crema knows what each command means on the session's link.
    fn is_followed(&self) -> bool;
    /// What may go on a lane does, as the link is.
    fn rides(&self) -> bool;
    /// The session has a loan that is over.
    fn has_done_with_loan(&self) -> bool;
}

/// What is done with `request`, whose row is `known`.
pub(super) fn decide(
    facts: &impl Facts,
    known: Option<&'static Spec>,
    request: Request<'_>,
    asked: Inquiry,
) -> Decision {
    if asked < Inquiry::Admission && !facts.is_admitted() {
        return Decision::Admit;
    }
    let Some(spec) = known else {
        let mistake = command::is_own(request) && is_plain(facts);
        return if mistake { Decision::Mistake } else { Decision::Foreign };
    };
    let wrong = !spec.arity_ok(request.argc());
    if wrong && spec.is_own() && is_plain(facts) {
        return Decision::Mistake;
    }
    if spec.route == Route::Close {
        return Decision::Close(spec);
    }
    if asked < Inquiry::Proof && facts.is_doubted() {
        return Decision::Prove;
    }
    if !is_plain(facts) && spec.gives_login(request) && facts.keeps_passwords() {
        return Decision::NoLogin;
    }
    if wrong && asked < Inquiry::Arguments {
        return Decision::Widen(spec);
    }
    // Redis looks at the number of arguments first, and refuses a wrong one in other words.
    if !wrong && facts.is_denied(spec) {
        return Decision::Deny(spec);
    }
    if !spec.spread.is_plain() && !wrong && facts.is_cluster() && is_plain(facts) {
        return Decision::Spread(spec);
    }
    // What cannot change a right is a command like another.
    let harmless = spec.route == Route::Session(Verb::ConfigSet) && !spec.alters(request).rights;
    if let Route::Session(verb) = spec.route
        && !wrong
        && !harmless
        && (facts.is_followed() || always_means_the_same(verb) || facts.is_in_transaction() && is_of_names(verb))
    {
        return Decision::Verb(verb, spec);
    }
    if facts.is_several() {
        return Decision::Apart(spec);
    }
    // Where Redis's own words are needed and the command cannot change a connection, it is sent on a lane for its error.
    let lane = spec.on_lane(request) || wrong && spec.route != Route::LaneUnlessBlocking || harmless;
    let held_back = spec.effect != Effect::Read && facts.holds_writes();
    if !lane || request.raw().len() > LARGE_REQUEST || held_back || facts.is_crowded() {
        return private(facts, spec, request);
    }
    if facts.rides() {
        return Decision::Lane(spec);
    }
    if facts.has_done_with_loan() { Decision::LaneAfterLoan(spec) } else { private(facts, spec, request) }
}

/// What goes on no lane goes on a private connection, unless that leads to one node, and the command to several.
fn private(facts: &impl Facts, spec: &'static Spec, request: Request<'_>) -> Decision {
    let splits = matches!(spec.spread, Spread::Slots(_)) && facts.is_cluster() && is_plain(facts);
    if splits && facts.has_several_slots(spec, request) { Decision::Spread(spec) } else { Decision::Private(spec) }
}

/// Whether nothing about a session without a connection of its own keeps its commands off lanes.
pub(super) fn is_open_to_lanes(facts: &impl Facts) -> bool {
    facts.is_admitted()
        && !facts.is_doubted()
        && !facts.is_restricted()
        && !facts.is_several()
        && !facts.holds_writes()
        && !facts.is_crowded()
        && is_plain(facts)
}

/// Whether `request`, of this row, goes on a lane where the session [is open to them](is_open_to_lanes): what [`decide`] says
/// then, sooner.
#[inline]
pub(super) fn is_for_lane(spec: &Spec, request: Request<'_>, is_cluster: bool) -> bool {
    (spec.spread.is_plain() || !is_cluster)
        && spec.arity_ok(request.argc())
        && spec.on_lane(request)
        && request.raw().len() <= LARGE_REQUEST
}

/// No transaction is begun, and crema knows what each command means.
fn is_plain(facts: &impl Facts) -> bool {
    facts.is_followed() && !facts.is_in_transaction()
}

/// In the transaction in which a connection becomes the client's own it does not know the client's name yet.
fn is_of_names(verb: Verb) -> bool {
    matches!(verb, Verb::ClientSetName | Verb::ClientGetName)
}

/// Verbs that mean the same to a session whose connection crema does not follow.
fn always_means_the_same(verb: Verb) -> bool {
    use Verb as V;
    matches!(verb, V::Quit | V::Reset | V::ClientReply | V::Multi | V::Exec | V::Discard | V::Watch | V::Unwatch)
        || matches!(verb, V::Subscribe | V::Monitor | V::Sync | V::SwapDb | V::AclChange | V::ConfigSet)
        || matches!(verb, V::RoleChange | V::ClientPause | V::ClientUnpause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::encode;

    /// A session, described.
    #[derive(Clone, Copy)]
    #[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination")]
    struct Described {
        admitted: bool,
        doubted: bool,
        passwords: bool,
        denied: &'static str,
        several: bool,
        cluster: bool,
        holds_writes: bool,
        crowded: bool,
        transaction: bool,
        followed: bool,
        rides: bool,
        done_with_loan: bool,
    }

    /// One that has nothing but lanes.
    const PLAIN: Described = Described {
        admitted: true,
        doubted: false,
        passwords: false,
        denied: "",
        several: false,
        cluster: false,
        holds_writes: false,
        crowded: false,
        transaction: false,
        followed: true,
        rides: true,
        done_with_loan: false,
    };
    const TAINTED: Described = Described { followed: false, rides: false, ..PLAIN };
    const MULTI: Described = Described { transaction: true, rides: false, ..PLAIN };
    const LOAN: Described = Described { rides: false, done_with_loan: true, ..PLAIN };

    impl Facts for Described {
        fn is_admitted(&self) -> bool {
            self.admitted
        }
        fn is_doubted(&self) -> bool {
            self.doubted
        }
        fn keeps_passwords(&self) -> bool {
            self.passwords
        }
        fn is_restricted(&self) -> bool {
            !self.denied.is_empty()
        }
        fn is_denied(&self, spec: &Spec) -> bool {
            spec.name == self.denied
        }
        fn is_several(&self) -> bool {
            self.several
        }
        fn is_cluster(&self) -> bool {
            self.cluster
        }
        fn has_several_slots(&self, spec: &Spec, request: Request<'_>) -> bool {
            crate::proxy::has_several_slots(spec, request)
        }
        fn holds_writes(&self) -> bool {
            self.holds_writes
        }
        fn is_crowded(&self) -> bool {
            self.crowded
        }
        fn is_in_transaction(&self) -> bool {
            self.transaction
        }
        fn is_followed(&self) -> bool {
            self.followed
        }
        fn rides(&self) -> bool {
            self.rides
        }
        fn has_done_with_loan(&self) -> bool {
            self.done_with_loan
        }
    }

    fn after(facts: Described, line: &str, asked: Inquiry) -> String {
        let (mut raw, mut spans) = (Vec::new(), Vec::new());
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        encode::command(&mut raw, &words);
        let request = Request::parse_canonical(&raw, &mut spans).expect("as it was made");
        let named = |kind: &str, spec: &Spec| format!("{kind} {}", spec.name);
        let known = command::lookup(request);
        let sooner =
            known.filter(|spec| facts.rides && is_open_to_lanes(&facts) && is_for_lane(spec, request, facts.cluster));
        let decision = decide(&facts, known, request, asked);
        assert!(sooner.is_none() || matches!(decision, Decision::Lane(_)), "{line}: both say the same");
        match decision {
            Decision::Widen(spec) => named("widen", spec),
            Decision::Deny(spec) => named("deny", spec),
            Decision::Close(spec) => named("close", spec),
            Decision::Verb(verb, _) => format!("{verb:?}"),
            Decision::Lane(spec) => named("lane", spec),
            Decision::Spread(spec) => named("spread", spec),
            Decision::LaneAfterLoan(spec) => named("lane after loan", spec),
            Decision::Private(spec) => named("private", spec),
            Decision::Apart(spec) => named("apart", spec),
            other => format!("{other:?}"),
        }
    }

    fn what(facts: Described, line: &str) -> String {
        after(facts, line, Inquiry::Nothing)
    }

    #[test]
    fn a_plain_session_goes_by_the_table() {
        for (line, want) in [
            ("GET k", "lane get"),
            ("SET k v", "lane set"),
            ("EVAL x 0", "lane eval"),
            ("KEYS *", "private keys"),
            ("BLPOP k 0", "private blpop"),
            ("CLIENT ID", "private client|id"),
            ("FUNCTION STATS", "private function|stats"),
            ("MULTI", "Multi"),
            ("SUBSCRIBE c", "Subscribe"),
            ("CONFIG SET maxmemory 1", "lane config|set"),
            ("CONFIG SET requirepass x", "ConfigSet"),
            ("CREMA STATUS", "CremaStatus"),
            ("CREMA", "Mistake"),
            ("CREMA FOO", "Mistake"),
            ("NOSUCH k", "Foreign"),
            ("GET", "widen get"),
            ("POST /", "close post"),
        ] {
            assert_eq!(what(PLAIN, line), want, "{line}");
        }
    }

    #[test]
    fn each_question_is_asked_once_and_in_its_turn() {
        let stranger = Described { admitted: false, doubted: true, ..PLAIN };
        assert_eq!(what(stranger, "GET"), "Admit");
        assert_eq!(after(stranger, "GET", Inquiry::Admission), "Prove");
        assert_eq!(after(stranger, "GET", Inquiry::Proof), "widen get");
        assert_eq!(after(stranger, "GET", Inquiry::Arguments), "lane get", "for the error in Redis's own words");
        assert_eq!(after(stranger, "AUTH x", Inquiry::Admission), "Prove");
        assert_eq!(after(stranger, "AUTH x", Inquiry::Proof), "Auth");
        assert_eq!(what(stranger, "NOSUCH"), "Admit");
        assert_eq!(after(stranger, "NOSUCH", Inquiry::Admission), "Foreign");
    }

    #[test]
    fn a_malformed_command_that_may_wait_rides_no_lane() {
        assert_eq!(after(PLAIN, "XREAD BLOCK 0", Inquiry::Arguments), "private xread");
    }

    #[test]
    fn where_the_connection_is_not_followed_redis_decides() {
        for line in ["SELECT 1", "AUTH x", "HELLO 3", "CLIENT SETNAME x", "CREMA STATUS", "GET k"] {
            assert!(what(TAINTED, line).starts_with("private"), "{line}");
        }
        for (line, want) in [
            ("QUIT", "Quit"),
            ("RESET", "Reset"),
            ("MULTI", "Multi"),
            ("UNWATCH", "Unwatch"),
            ("SUBSCRIBE c", "Subscribe"),
        ] {
            assert_eq!(what(TAINTED, line), want);
        }
        assert_eq!(what(TAINTED, "CREMA"), "widen crema");
        assert_eq!(what(TAINTED, "CREMA FOO"), "Foreign");
        assert_eq!(what(MULTI, "CREMA FOO"), "Foreign");
        assert_eq!(what(MULTI, "GET k"), "private get");
        assert_eq!(what(MULTI, "EXEC"), "Exec");
    }

    #[test]
    fn with_passwords_of_its_own_crema_allows_no_login_where_it_would_be_redis_s() {
        for line in ["AUTH x", "AUTH u x", "HELLO 3 AUTH u x"] {
            for facts in [TAINTED, MULTI] {
                assert_eq!(what(Described { passwords: true, ..facts }, line), "NoLogin", "{line}");
                assert_ne!(what(facts, line), "NoLogin", "{line}");
            }
            assert_ne!(what(Described { passwords: true, ..PLAIN }, line), "NoLogin", "{line}");
        }
        assert_eq!(what(Described { passwords: true, ..MULTI }, "HELLO 3"), "Hello");
    }

    #[test]
    fn what_is_denied_is_refused_wherever_it_would_go() {
        let denies = |denied, facts| Described { denied, ..facts };
        for facts in [PLAIN, TAINTED, MULTI, LOAN] {
            assert_eq!(what(denies("get", facts), "GET k"), "deny get");
            assert_eq!(what(denies("exec", facts), "EXEC"), "deny exec");
            assert_eq!(what(denies("get", facts), "SET k v"), what(facts, "SET k v"));
            assert_eq!(what(denies("get", facts), "GET"), "widen get", "it may be malformed");
        }
        let stranger = Described { admitted: false, ..denies("get", PLAIN) };
        assert_eq!(what(stranger, "GET k"), "Admit", "who is nobody hears of that first");
        assert_eq!(after(denies("get", PLAIN), "GET", Inquiry::Arguments), "lane get", "for Redis's own words");
    }

    #[test]
    fn a_loan_that_is_over_is_given_back_before_a_lane_is_taken() {
        assert_eq!(what(LOAN, "GET k"), "lane after loan get");
        assert_eq!(what(LOAN, "KEYS *"), "private keys");
        assert_eq!(what(Described { done_with_loan: false, ..LOAN }, "GET k"), "private get", "while it is not");
    }

    #[test]
    fn in_a_cluster_some_commands_concern_several_nodes() {
        let plain = Described { cluster: true, ..PLAIN };
        for (line, want) in [
            ("GET k", "lane get"),
            ("MGET a b", "lane mget"),
            ("DBSIZE", "spread dbsize"),
            ("KEYS *", "spread keys"),
            ("SCAN 0", "spread scan"),
            ("INFO", "spread info"),
            ("READONLY", "spread readonly"),
            ("CONFIG SET requirepass x", "spread config|set"),
            ("CLUSTER SLOTS", "spread cluster|slots"),
            ("CLUSTER FAILOVER", "spread cluster|failover"),
            ("CLUSTER KEYSLOT x", "lane cluster|keyslot"),
            ("WAIT 1 0", "spread wait"),
            ("DBSIZE x", "widen dbsize"),
        ] {
            assert_eq!(what(plain, line), want, "{line}");
        }
        assert_eq!(
            what(Described { cluster: true, ..MULTI }, "DBSIZE"),
            "private dbsize",
            "its transaction is at one node"
        );
        assert_eq!(what(Described { cluster: true, ..TAINTED }, "DBSIZE"), "private dbsize");
        assert_eq!(what(Described { cluster: true, ..LOAN }, "DBSIZE"), "spread dbsize");
        let busy = Described { rides: false, done_with_loan: false, ..plain };
        assert_eq!((what(busy, "MGET a b"), what(busy, "MGET a a")), ("spread mget".into(), "private mget".into()));
        assert_eq!(what(Described { crowded: true, ..plain }, "DEL a b"), "spread del");
        assert_eq!(what(Described { cluster: true, ..MULTI }, "MGET a b"), "private mget");
    }

    #[test]
    fn what_would_be_in_the_way_of_others_goes_apart() {
        assert_eq!(what(Described { holds_writes: true, ..PLAIN }, "SET k v"), "private set");
        assert_eq!(what(Described { holds_writes: true, ..PLAIN }, "GET k"), "lane get");
        assert_eq!(what(Described { crowded: true, ..PLAIN }, "GET k"), "private get");
        assert_eq!(what(Described { several: true, ..PLAIN }, "GET k"), "apart get");
        let large = format!("SET k {}", "v".repeat(LARGE_REQUEST));
        assert_eq!(what(PLAIN, &large), "private set");
    }
}
