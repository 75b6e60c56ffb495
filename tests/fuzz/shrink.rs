//! Cuts a script that shows a difference down to one in which nothing more can be left out, or to what a minute allows.

use std::time::{Duration, Instant};

use super::script::{Act, Script, Turn};
use super::stage::{Difference, Stage};

const TIME: Duration = Duration::from_secs(60);

pub(crate) struct Shrunk {
    pub(crate) script: Script,
    pub(crate) difference: Difference,
}

/// `None` when it does not happen again, however often it is tried.
pub(crate) fn shrink(stage: &Stage, script: &Script, seed: u64) -> Option<Shrunk> {
    let deadline = Instant::now() + TIME;
    let again = |script: &Script| {
        stage.clear();
        stage.run(script, seed).err().filter(|_| Instant::now() < deadline)
    };
    let mut difference = (0..5).find_map(|_| again(script))?;
    let mut script = script.clone();
    script.turns.truncate(difference.turn + 1);
    let mut chunk = script.turns.len().div_ceil(2);
    while chunk > 0 {
        let mut from = 0;
        while from < script.turns.len() {
            let mut shorter = script.clone();
            shorter.turns.drain(from..(from + chunk).min(script.turns.len()));
            match again(&shorter) {
                Some(found) => {
                    shorter.turns.truncate(found.turn + 1);
                    (script, difference) = (shorter, found);
                }
                None => from += chunk,
            }
        }
        chunk /= 2;
    }
    // Then within the turns.
    for turn in (0..script.turns.len()).rev() {
        let len = said(&mut script.turns[turn]).map_or(0, |said| said.len());
        let mut chunk = len.div_ceil(2);
        while chunk > 0 {
            let mut from = 0;
            loop {
                let mut shorter = script.clone();
                let Some(said) = shorter.turns.get_mut(turn).and_then(said) else { break };
                if from >= said.len() {
                    break;
                }
                said.drain(from..(from + chunk).min(said.len()));
                match again(&shorter) {
                    Some(found) => (script, difference) = (shorter, found),
                    None => from += chunk,
                }
            }
            chunk /= 2;
        }
    }
    Some(Shrunk { script, difference })
}

fn said(turn: &mut Turn) -> Option<&mut Vec<super::shapes::Shape>> {
    match &mut turn.act {
        Act::Say(said) | Act::Listen(said) | Act::Close(said, _) | Act::Beside(said) => Some(said),
        _ => None,
    }
}
