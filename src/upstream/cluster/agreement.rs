//! Which of several nodes' maps is to be believed.

use super::slots::{ClusterState, SlotTable};
use crate::config::Endpoint;

/// What one node said.
#[derive(Clone, Debug)]
pub(crate) struct ClusterAnswer {
    /// How it is.
    pub(crate) state: ClusterState,
    /// Who serves what, as far as it knows.
    pub(crate) table: SlotTable,
    /// The masters without slots to which slots of it are on their way.
    pub(crate) newcomers: Vec<Endpoint>,
}

/// The map to go by: of a node that is well, knows of the latest election of which most of that map's masters know, and where that
/// is not to be had of any from `known` on, the number in the last map. Of several the one that most say, and where as many say another
/// the present one. Where none is well there is none but at the very start, while nothing is `known`.
pub(crate) fn agreed(
    answers: &[ClusterAnswer],
    known: u64,
    is_present: impl Fn(&SlotTable) -> bool,
) -> Option<&ClusterAnswer> {
    let epoch = |answer: &ClusterAnswer| answer.state.current_epoch;
    let saying = |one: &ClusterAnswer| answers.iter().filter(|other| other.table.agrees_with(&one.table)).count();
    let well = || answers.iter().filter(|answer| answer.state.is_ok && !answer.table.masters.is_empty());
    let is_named = |one: &&ClusterAnswer| {
        let naming = well().filter(|other| epoch(other) == epoch(one)).count();
        naming > one.table.masters.len() / 2
    };
    let best = |some: &mut dyn Iterator<Item = &'_ ClusterAnswer>| -> Option<usize> {
        let best = some.max_by_key(|answer| (epoch(answer), saying(answer), is_present(&answer.table)))?;
        answers.iter().position(|answer| std::ptr::eq(answer, best))
    };
    let chosen = best(&mut well().filter(is_named))
        .or_else(|| best(&mut well().filter(|answer| epoch(answer) >= known)))
        .or_else(|| {
            (known == 0).then(|| best(&mut answers.iter().filter(|answer| !answer.table.masters.is_empty())))?
        });
    chosen.map(|at| &answers[at])
}

#[cfg(test)]
mod tests {
    use super::super::slots::MasterEntry;
    use super::*;

    /// Of a cluster of three, in which slot 0 is served by the master of this number.
    fn answer(is_ok: bool, current_epoch: u64, master: u16) -> ClusterAnswer {
        let endpoint = |port| Endpoint::Tcp { host: "h".into(), port };
        let masters = (1..4).map(|port| MasterEntry { endpoint: endpoint(port), replicas: Vec::new() });
        let mut table = SlotTable { masters: masters.collect(), ..SlotTable::default() };
        table.owners[0] = Some(master);
        let state = ClusterState { is_ok, current_epoch, ..ClusterState::default() };
        ClusterAnswer { state, table, newcomers: Vec::new() }
    }

    fn chosen(answers: &[ClusterAnswer], known: u64) -> Option<u16> {
        agreed(answers, known, |_| false).and_then(|answer| answer.table.owners[0])
    }

    #[test]
    fn the_latest_number_that_most_masters_name_is_believed() {
        assert_eq!(chosen(&[answer(true, 5, 0), answer(true, 6, 1), answer(true, 6, 1)], 5), Some(1));
        assert_eq!(
            chosen(&[answer(true, 7, 0), answer(true, 6, 1), answer(true, 6, 1)], 5),
            Some(1),
            "one alone names 7"
        );
        assert_eq!(chosen(&[answer(true, 3, 2), answer(true, 3, 2)], 9), Some(2), "a cluster that was made anew");
    }

    #[test]
    fn where_most_do_not_answer_nothing_older_is_believed() {
        assert_eq!(chosen(&[answer(true, 5, 1)], 5), Some(1));
        assert_eq!(chosen(&[answer(true, 4, 1)], 5), None);
    }

    #[test]
    fn of_two_maps_with_one_number_the_one_that_most_say_counts() {
        assert_eq!(chosen(&[answer(true, 5, 0), answer(true, 5, 1), answer(true, 5, 1)], 5), Some(1));
        for answers in [[answer(true, 5, 0), answer(true, 5, 1)], [answer(true, 5, 1), answer(true, 5, 0)]] {
            let kept = agreed(&answers, 5, |table| table.owners[0] == Some(0)).map(|answer| answer.table.owners[0]);
            assert_eq!(kept, Some(Some(0)), "one against one changes nothing");
        }
    }

    #[test]
    fn who_is_not_well_is_believed_at_the_start_alone() {
        let ill = [answer(false, 5, 1)];
        assert_eq!((chosen(&ill, 0), chosen(&ill, 5)), (Some(1), None));
        assert_eq!(chosen(&[], 0), None);
    }
}
