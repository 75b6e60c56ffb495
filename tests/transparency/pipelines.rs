//! Pipelines drawn at random, to a server and through crema to an equal one, and their answers compared.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::shapes::{Shape, shapes};
use common::Client;
use common::value::shown;

/// Compares rounds of pipelines on connections that `connect` makes: the server's own, and crema's. What does not fit is left out.
pub(crate) fn compare(
    version: u8,
    rounds: usize,
    rng: &mut SmallRng,
    fits: fn(&Shape) -> bool,
    connect: impl Fn() -> (Client, Client),
) {
    let mut shapes = shapes(version);
    shapes.retain(fits);
    let mut differences: Vec<String> = Vec::new();
    for round in 0..rounds {
        let (mut one, mut other) = connect();
        // The first round takes all in order, later ones shuffle them.
        let mut chosen = shapes.clone();
        if round > 0 {
            chosen.shuffle(rng);
            chosen.truncate(rng.random_range(1..=shapes.len()));
        }
        let bytes: Vec<u8> = chosen.iter().flat_map(|shape| shape.bytes.clone()).collect();
        one.send(&bytes);
        other.send_in_pieces(&bytes, rng);
        for shape in &chosen {
            for (n, differs) in shape.differs.iter().enumerate() {
                let about = || format!("reply {n} to {} in round {round}, RESP{version}", shown(&shape.bytes));
                let want = one.try_reply().unwrap_or_else(|e| panic!("Redis: {}: {e}", about()));
                let got = other.try_reply().unwrap_or_else(|e| panic!("crema: {}: {e}", about()));
                let (want, got) = (differs.blot(&want), differs.blot(&got));
                if want != got {
                    differences.push(format!("{}\nRedis: {}\ncrema: {}", about(), shown(&want), shown(&got)));
                }
            }
        }
        assert_eq!(one.cmd(&["ECHO", "end"]), other.cmd(&["ECHO", "end"]), "an answer too many");
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }
}
