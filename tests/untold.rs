//! What Redis tells nobody: that its clock was set forward, and that databases were swapped, by whom and however it may be.

use std::time::{Duration, Instant};

use common::{AT_LAST, Client, Crema, MAX_STALENESS, Redis, Value, array, bulk, eventually, int, ok};

/// Reads `k` of this client until it is what Redis has, and says for how long it was not: before the read was asked for.
fn outdated(client: &mut Client, read: &[&str], now: &Value) -> Duration {
    let begun = Instant::now();
    loop {
        let asked = begun.elapsed();
        if client.cmd(read) == *now {
            return asked;
        }
        assert!(asked < AT_LAST, "{read:?} is never {now:?}");
    }
}

#[test]
fn keys_that_expire_because_redis_was_set_forward_are_not_served_for_longer_than_the_bound() {
    let Some(redis) = Redis::with_a_clock() else { return eprintln!("no Valkey, or no libfaketime") };
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    // As where there are so many that it takes seconds until Redis comes by and tells.
    assert_eq!(redis.client().cmd(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]), ok());
    for hour in 1..=3 {
        let keys: Vec<String> = (0..500).map(|n| format!("k{n}")).collect();
        let sets: Vec<[&str; 5]> = keys.iter().map(|key| ["SET", key, "v", "EX", "1000"]).collect();
        redis.client().pipeline(&sets);
        let gets: Vec<[&str; 2]> = keys.iter().map(|key| ["GET", key.as_str()]).collect();
        let hits = || if crema.is_direct() { u64::MAX } else { crema.outcomes("hit") };
        let before = hits();
        eventually("they are in L1", || {
            client.pipeline(&gets);
            crema.is_direct() || hits() - before > gets.len() as u64
        });
        redis.set_clock(&format!("+{hour}h"));
        let set = Instant::now();
        loop {
            let asked = set.elapsed();
            let left = client.pipeline(&gets).iter().filter(|value| **value != Value::Nil).count();
            if left == 0 {
                break;
            }
            assert!(asked < MAX_STALENESS, "{left} keys are served that have expired");
        }
        if !crema.is_direct() {
            assert!(crema.count("crema_epochs_total", &[("reason", "clock")]) >= hour);
        }
    }
}

/// By whom and however: directly, in a transaction, by a script, with nobody left to tell of it.
#[test]
fn a_swap_that_nobody_tells_of_is_seen_within_the_bound() {
    for redis in [Some(Redis::start()), Redis::valkey()].into_iter().flatten() {
        let crema = Crema::start(&redis);
        let (mut direct, mut client) = (redis.client(), crema.client());
        direct.pipeline(&[&["SET", "k", "zero"][..], &["SELECT", "1"], &["SET", "k", "one"], &["SELECT", "0"]]);
        let ways: [&dyn Fn(&mut Client); 4] = [
            &|direct| assert_eq!(direct.cmd(&["SWAPDB", "0", "1"]), ok()),
            &|direct| drop(direct.pipeline(&[&["MULTI"][..], &["SWAPDB", "0", "1"], &["EXEC"]])),
            &|direct| assert!(!direct.cmd(&["EVAL", "return redis.call('swapdb', 0, 1)", "0"]).is_error()),
            &|_| assert!(!crema.client().cmd(&["EVAL", "return redis.call('swapdb', 0, 1)", "0"]).is_error()),
        ];
        for (round, swap) in ways.iter().cycle().take(12).enumerate() {
            crema.warm(&["GET", "k"]);
            swap(&mut direct);
            let now = bulk(if round % 2 == 0 { "one" } else { "zero" });
            let outdated = outdated(&mut client, &["GET", "k"], &now);
            assert!(outdated <= MAX_STALENESS || crema.is_direct(), "{outdated:?} in round {round}");
        }
    }
}

/// Who may not ask is served as before.
#[test]
fn a_user_who_may_not_ask_what_nobody_tells_is_cached_all_the_same() {
    let redis = Redis::start();
    redis.client().cmd(&["ACL", "SETUSER", "u", "on", ">pw", "~*", "&*", "+@all", "-time", "-latency"]);
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    assert_eq!(client.cmd(&["AUTH", "u", "pw"]), ok());
    redis.client().cmd(&["SET", "k", "v"]);
    let hits = || if crema.is_direct() { u64::MAX } else { crema.outcomes("hit") };
    eventually("L1 answers", || client.cmd(&["GET", "k"]) == bulk("v") && hits() > 0);
    if !crema.is_direct() {
        eventually("it is told", || {
            crema.has_logged("goes without TIME") && crema.has_logged("goes without LATENCY HISTOGRAM")
        });
    }
    // It is asked once, not with each fence: each refusal is an entry in Redis's ACL LOG.
    eventually("the lease is renewed now and then", || redis.calls("hello") > 20);
    let Value::Array(log) = redis.client().cmd(&["ACL", "LOG"]) else { panic!("an array") };
    assert!(log.len() < 4, "{log:?}");
}

/// Two cremas before a Redis that does not say how often databases were swapped: only the fleet's channel tells.
fn fleet(redis: &Redis) -> [Crema; 2] {
    assert_eq!(redis.client().cmd(&["CONFIG", "SET", "latency-tracking", "no"]), ok());
    redis.client().pipeline(&[&["SET", "k", "zero"][..], &["SELECT", "1"], &["SET", "k", "one"]]);
    let fleet = [Crema::start(redis), Crema::start(redis)];
    fleet.iter().for_each(Crema::await_channel);
    fleet
}

/// Ends what is named so at Redis, and says how many they were.
fn kill(redis: &Redis, name: &str) -> usize {
    let of_this_name: Vec<_> =
        redis.client_list().into_iter().filter(|line| line.contains(&format!(" name={name} "))).collect();
    for line in &of_this_name {
        let id = line.split(' ').find_map(|field| field.strip_prefix("id=")).expect("each has an id");
        redis.client().cmd(&["CLIENT", "KILL", "ID", id]);
    }
    of_this_name.len()
}

#[test]
fn the_fleet_is_told_of_a_swap_though_what_tells_it_was_dead() {
    let redis = Redis::start();
    let fleet = fleet(&redis);
    if fleet[0].is_direct() {
        return;
    }
    let (mut client, mut reader) = (fleet[0].client(), fleet[1].client());
    for round in 0..6 {
        fleet[1].warm(&["GET", "k"]);
        if round > 0 {
            assert_eq!(kill(&redis, "crema-publish"), 1, "it was kept");
        }
        if round % 2 == 0 {
            assert_eq!(client.cmd(&["SWAPDB", "0", "1"]), ok());
        } else {
            client.pipeline(&[&["MULTI"][..], &["SWAPDB", "0", "1"], &["EXEC"]]);
        }
        let now = bulk(if round % 2 == 0 { "one" } else { "zero" });
        // It was told before that was answered.
        let outdated = outdated(&mut reader, &["GET", "k"], &now);
        assert!(outdated < MAX_STALENESS, "{outdated:?} in round {round}");
    }
}

#[test]
fn who_could_not_hear_of_a_swap_forgets_when_it_hears_again() {
    let redis = Redis::start();
    let fleet = fleet(&redis);
    if fleet[0].is_direct() {
        return;
    }
    let (mut client, mut reader) = (fleet[0].client(), fleet[1].client());
    for round in 0..4 {
        fleet[1].warm(&["GET", "k"]);
        assert_eq!(kill(&redis, "crema-channel"), 2);
        assert_eq!(client.cmd(&["SWAPDB", "0", "1"]), ok());
        outdated(&mut reader, &["GET", "k"], &bulk(if round % 2 == 0 { "one" } else { "zero" }));
        let both = array([bulk("cache:invalidate"), int(2)]);
        eventually("both listen", || redis.client().cmd(&["PUBSUB", "NUMSUB", "cache:invalidate"]) == both);
    }
}

#[test]
fn a_crema_that_is_killed_behind_the_answer_to_a_swap_has_told_of_it() {
    let redis = Redis::start();
    let [sender, other] = fleet(&redis);
    let mut reader = other.client();
    other.warm(&["GET", "k"]);
    assert_eq!(sender.client().cmd(&["SWAPDB", "0", "1"]), ok());
    drop(sender);
    outdated(&mut reader, &["GET", "k"], &bulk("one"));
}

/// `SWAPDB` under another name is a write that names no keys, and so may be any other.
#[test]
fn a_write_that_names_no_keys_makes_the_fleet_forget() {
    let renamed = ["--rename-command", "SWAPDB", "swap-9f3"];
    for redis in [Some(Redis::with(&renamed)), Redis::valkey_with(&renamed)].into_iter().flatten() {
        redis.client().cmd(&["ACL", "SETUSER", "u", "on", ">pw", "~*", "&*", "+@all", "-command"]);
        let fleet = fleet(&redis);
        let mut readers = fleet.each_ref().map(Crema::client);
        let swap = &["swap-9f3", "0", "1"][..];
        let ways: [&[&[&str]]; 5] = [
            &[swap],
            &[&["MULTI"], swap, &["EXEC"]],
            &[swap],
            &[&["AUTH", "u", "pw"], swap],
            &[&["WATCH", "k"], &["MULTI"], &["GET", "k"], swap, &["EXEC"]],
        ];
        let mut client = fleet[0].client();
        for (round, way) in ways.into_iter().enumerate() {
            for crema in &fleet {
                crema.warm(&["GET", "k"]);
            }
            let replies = client.pipeline(way);
            assert!(replies.iter().all(|reply| !reply.is_error()), "{replies:?}");
            let now = bulk(if round % 2 == 0 { "one" } else { "zero" });
            assert_eq!(readers[0].cmd(&["GET", "k"]), now, "here at once, round {round}");
            let outdated = outdated(&mut readers[1], &["GET", "k"], &now);
            assert!(outdated < MAX_STALENESS || fleet[0].is_direct(), "{outdated:?} elsewhere, round {round}");
        }
    }
}

#[test]
fn keys_that_are_loaded_on_top_of_others_are_seen() {
    let redis = Redis::start();
    let fleet = fleet(&redis);
    let mut direct = redis.client();
    direct.cmd(&["SET", "k", "saved"]);
    assert_eq!(direct.cmd(&["SAVE"]), ok());
    direct.cmd(&["SET", "k", "later"]);
    for crema in &fleet {
        crema.warm(&["GET", "k"]);
    }
    assert_eq!(fleet[0].client().cmd(&["DEBUG", "RELOAD", "MERGE", "NOFLUSH", "NOSAVE"]), ok());
    assert_eq!(fleet[0].client().cmd(&["GET", "k"]), bulk("saved"));
    let outdated = outdated(&mut fleet[1].client(), &["GET", "k"], &bulk("saved"));
    assert!(outdated < MAX_STALENESS || fleet[0].is_direct(), "{outdated:?}");
}

/// What changes how Redis answers counts from when it takes effect: alone, at `EXEC`, on a connection that the client has changed.
#[test]
fn a_pause_is_followed_wherever_it_comes_from() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let pause = &["CLIENT", "PAUSE", "700"][..];
    let ways: [&[&[&str]]; 3] =
        [&[pause], &[&["MULTI"], &["SET", "x", "1"], pause, &["EXEC"]], &[&["CLIENT", "TRACKING", "OFF"], pause]];
    for way in ways {
        crema.warm(&["GET", "k"]);
        let (mut reader, mut writer, mut pauser) = (crema.client(), crema.client(), crema.client());
        reader.cmd(&["GET", "k"]);
        let begun = Instant::now();
        assert!(pauser.pipeline(way).iter().all(|reply| !reply.is_error()));
        assert_eq!(reader.cmd(&["GET", "k"]), Value::Nil);
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(600), "{way:?}: answered after {took:?} while Redis answered nobody");
        assert_eq!(writer.cmd(&["SET", "y", "1"]), ok());
    }
    // Called off in the same transaction, or not done at all.
    let nothing: [&[&[&str]]; 2] = [
        &[&["MULTI"], &["CLIENT", "PAUSE", "60000"], &["CLIENT", "UNPAUSE"], &["EXEC"]],
        &[&["MULTI"], &["CLIENT", "PAUSE", "60000"], &["NOSUCH"], &["EXEC"]],
    ];
    for way in nothing {
        crema.client().pipeline(way);
        crema.warm(&["GET", "k"]);
    }
}
