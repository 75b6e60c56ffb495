//! Commands that concern several nodes of a cluster, or the cluster itself: asked of all masters and answered once, of one master
//! after the other, or by crema.
//!
//! A session that sends one waits until all that it sent before is answered: so what it did at any node is done before, and what it
//! does next comes after. Each node is asked on a lane where the command may go on one, else on a connection borrowed for it. That a
//! node does not answer is one of the answers; where all are to agree, the client is told who did it and who did not.
//!
//! Holds contract points 2 (order) and 3 (own writes).

use rand::random;

use super::face::{ShownAddress, corrected, shown, standalone_hello};
use super::follow::Way;
use super::scan_cursor::{ScanCursor, ScanPrint, ScanStep};
use super::wire::ClientLine;
use super::{Close, Session};
use std::sync::Arc;

use crate::clock::Time;
use crate::command::{Effect, HashSlot, Merge, NodeReply, Portrait, Route, Spec, Spread, Verb};
use crate::config::ClusterView;
use crate::invalidation::Change;
use crate::proxy::{self, NodeQuestion, PartsInTurn, Taken, Tries};
use crate::resp::{Elements, Request, encode, text_of};
use crate::upstream::{NodeIndex, Topology, redirect_of};

impl Session {
    /// A command that goes to other nodes than that of its first key.
    pub(super) async fn spread(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        line.answered(self).await?;
        if self.has_done_with_loan() {
            self.end_loan(line).await?;
        }
        match spec.spread {
            Spread::Masters(merge) => {
                let masters = masters(&self.worker.topology());
                self.ask_nodes(line, &masters, (spec, request), merge).await
            }
            Spread::Cursor => self.scan(line, spec, request).await,
            Spread::Face(portrait) => self.show(line, portrait, spec, request).await,
            Spread::OfSlot => {
                let at = owner_of(request.arg(2), &self.worker.topology());
                self.ask_nodes(line, &[at], (spec, request), Merge::Join).await
            }
            Spread::NodeItself => {
                let name = spec.name.replace('|', " ").to_uppercase();
                self.answer(|out| {
                    let text = format!("ERR crema: {name} changes the cluster: send it to the node that it is about");
                    encode::error(out, &text);
                });
                Ok(())
            }
            Spread::OneNode | Spread::Master | Spread::Slots(_) => {
                let now = Time::now();
                if self.holds_up(spec, now)
                    && let Some(parts) = PartsInTurn::of(spec, request)
                {
                    return self.ask_in_turn(line, parts, spec).await;
                }
                match proxy::call(&self.worker, &mut self.caller, spec, request, now) {
                    Taken::Yes => Ok(()),
                    taken => self.on_lane(line, spec, request, taken, now).await,
                }
            }
        }
    }

    /// Has these nodes do it, and answers for all of them.
    pub(super) async fn ask_nodes(
        &mut self,
        line: &mut ClientLine,
        at: &[NodeIndex],
        (spec, request): (&Spec, Request<'_>),
        merge: Merge,
    ) -> Result<(), Close> {
        // What changes no key and yet what L1 must know: rights, passwords.
        let alters = spec.alters(request);
        let changes = spec.effect == Effect::None && alters.any();
        let change = changes.then(|| Change::begin(&self.worker.shared.l1, alters));
        let whole = self.caller.begin_whole(&self.worker, spec, at);
        let mut questions: Vec<_> = at.iter().map(|&at| self.ask_one(at, spec, request)).collect();
        let waits = spec.route == Route::Session(Verb::Wait);
        let asked = async {
            let (mut answers, mut heard) = (Vec::new(), Time::ZERO);
            for question in &mut questions {
                let (answer, at) = question.answer().await;
                heard = heard.max(at);
                answers.push((question.node().to_owned(), answer));
            }
            (answers, heard)
        };
        let (answers, heard) =
            if waits { line.while_there(self, asked).await? } else { line.while_writing(self, asked).await };
        let replies: Vec<_> = answers.iter().map(|(node, reply)| NodeReply { node, reply }).collect();
        if let Some(change) = change {
            drop(change.answered(answers.iter().all(|(_, reply)| reply.starts_with(b"-"))));
        }
        for question in questions {
            question.end(Time::now());
        }
        whole.give(&merge.merged(&replies, Some(request), random()), heard);
        Ok(())
    }

    /// Sends a command to a node: on a lane, if it would hold up nobody there.
    fn ask_one(&mut self, at: NodeIndex, spec: &Spec, request: Request<'_>) -> NodeQuestion {
        let (worker, now) = (&self.worker, Time::now());
        if spec.on_lane(request) && !self.holds_up(spec, now) {
            self.caller.ask_node(worker, at, (spec, request), now)
        } else {
            self.caller.ask_node_apart(worker, (at, false), (spec, request), now)
        }
    }

    /// Whether a command of this row would hold up others on a lane.
    pub(super) fn holds_up(&self, spec: &Spec, now: Time) -> bool {
        spec.effect != Effect::Read && self.worker.shared.l1.is_paused(now)
    }

    /// Sends the parts of a command that would hold up others on lanes, one after the other on connections of their own.
    async fn ask_in_turn(&mut self, line: &mut ClientLine, parts: PartsInTurn, spec: &Spec) -> Result<(), Close> {
        let nodes = parts.nodes(&self.worker);
        let whole = self.caller.begin_whole(&self.worker, spec, &nodes);
        let (mut replies, mut heard, mut spans) = (Vec::new(), Time::ZERO, Vec::new());
        for command in parts.commands() {
            let part = Request::parse_canonical(command, &mut spans).expect("as it was made");
            let (reply, when) = self.ask_apart(line, spec, part).await;
            heard = heard.max(when);
            replies.push(reply);
        }
        let replies: Vec<&[u8]> = replies.iter().map(Vec::as_slice).collect();
        whole.give(&parts.whole(&replies), heard);
        Ok(())
    }

    /// What the node says that serves the slot of a part, and when that was heard: the next, where the slot has left meanwhile.
    async fn ask_apart(&mut self, line: &mut ClientLine, spec: &Spec, part: Request<'_>) -> (Vec<u8>, Time) {
        let slot = spec.keys(part).next().map(HashSlot::of);
        let (mut tries, mut way) = (Tries::new(Time::now()), Way { at: self.worker.node_of(slot), asking: false });
        loop {
            let to = (way.at, way.asking);
            let mut question = self.caller.ask_node_apart(&self.worker, to, (spec, part), Time::now());
            let answer = line.while_writing(self, question.answer()).await;
            question.end(Time::now());
            let Some(kind) = redirect_of(&answer.0) else { return answer };
            let node = Arc::clone(self.worker.station(way.at).node());
            match self.find_way(line, &mut tries, (kind, &answer.0), (&node, slot)).await {
                Some(next) => way = next,
                None => return answer,
            }
        }
    }

    /// What one node says to a command on a lane, and when that was heard.
    async fn ask_at(
        &mut self,
        line: &mut ClientLine,
        at: NodeIndex,
        spec: &Spec,
        request: Request<'_>,
    ) -> (Vec<u8>, Time) {
        let mut question = self.caller.ask_node(&self.worker, at, (spec, request), Time::now());
        line.while_writing(self, question.answer()).await
    }

    /// `SCAN`, of one master after the other.
    async fn scan(&mut self, line: &mut ClientLine, spec: &'static Spec, request: Request<'_>) -> Result<(), Close> {
        let topology = self.worker.topology();
        let (masters, now) = (masters(&topology), self.scan_print(&topology));
        let cursor = std::str::from_utf8(request.arg(1)).ok().and_then(|text| text.parse::<u64>().ok());
        let Some(cursor) = cursor else {
            return self.ask_nodes(line, &masters[..1], (spec, request), Merge::Join).await; // the node says what is wrong
        };
        let cursor = ScanCursor::read(cursor, now);
        let at = masters[cursor.master];
        let (mut raw, mut spans) = (Vec::new(), Vec::new());
        let own = cursor.of_node().to_string();
        let mut words: Vec<&[u8]> = request.args().collect();
        words[1] = own.as_bytes();
        encode::command(&mut raw, &words);
        let request = Request::parse_canonical(&raw, &mut spans).expect("as it was made");
        let whole = self.caller.begin_whole(&self.worker, spec, &[at]);
        let (reply, heard) = self.ask_at(line, at, spec, request).await;
        let step = next_of(&reply).map(|next| cursor.after(next, now));
        let shown = match step {
            Some(ScanStep::On(cursor)) => with_cursor(&reply, cursor.number()),
            Some(ScanStep::Ask(round)) => {
                let still = self.is_still(line, &masters, &topology).await;
                with_cursor(&reply, if still { 0 } else { round.number() })
            }
            Some(ScanStep::Over) => with_cursor(&reply, 0),
            Some(ScanStep::TooLarge) => {
                b"-ERR crema: the node's cursor is too large to be one of the cluster's\r\n".to_vec()
            }
            None => reply,
        };
        whole.give(&shown, heard);
        Ok(())
    }

    /// Whether each master has the slots that this map says, and none of them is on its way, as the masters say. The map is that of the
    /// step that asks: a later one may have learnt meanwhile of what moved during the scan.
    async fn is_still(&mut self, line: &mut ClientLine, masters: &[NodeIndex], topology: &Topology) -> bool {
        let (mut raw, mut spans) = (Vec::new(), Vec::new());
        encode::command(&mut raw, &[b"CLUSTER", b"NODES"]);
        let Some(request) = Request::parse_canonical(&raw, &mut spans) else { return false };
        let spec = crate::command::unknown_read();
        let asked: Vec<_> =
            masters.iter().map(|&at| self.caller.ask_node(&self.worker, at, (spec, request), Time::now())).collect();
        let mut still = true;
        for (mut question, &at) in asked.into_iter().zip(masters) {
            let (reply, _) = line.while_writing(self, question.answer()).await;
            still &= text_of(&reply).is_some_and(|text| has_its_slots(text, at, topology));
        }
        still
    }

    /// What crema shows of the cluster.
    async fn show(
        &mut self,
        line: &mut ClientLine,
        portrait: Portrait,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        let settings = &self.worker.shared.config.cluster;
        let (view, at) = (settings.view, ShownAddress::of(settings.announce.as_ref(), &line.local()));
        if let Some(shown) = shown(portrait, &at, request, self.caller.resp) {
            self.answer(|out| out.extend_from_slice(&shown));
            return Ok(());
        }
        let front = self.worker.topology().front_index();
        let whole = self.caller.begin_whole(&self.worker, spec, &[front]);
        let (reply, heard) = self.ask_at(line, front, spec, request).await;
        let as_it_is = portrait == Portrait::Server && view == ClusterView::Cluster;
        let reply = if as_it_is { reply } else { corrected(portrait, reply, self.caller.resp) };
        whole.give(&reply, heard);
        Ok(())
    }

    /// `HELLO` without a login, of a session that has nothing but lanes: the front's answer, as clients are shown it.
    pub(super) async fn show_hello(&mut self, line: &mut ClientLine, spec: &Spec, request: Request<'_>) {
        let front = self.worker.topology().front_index();
        let whole = self.caller.begin_whole(&self.worker, spec, &[front]);
        let (reply, heard) = self.ask_at(line, front, spec, request).await;
        whole.give(&self.hello_shown(reply), heard);
    }

    /// An answer to `HELLO`, as clients are shown it.
    pub(super) fn hello_shown(&self, reply: Vec<u8>) -> Vec<u8> {
        if self.shows_one_server() { standalone_hello(&reply) } else { reply }
    }

    /// What the cluster is to a scan: made once for each version of the map, for it looks at all slots.
    fn scan_print(&mut self, topology: &Topology) -> ScanPrint {
        let version = topology.version();
        match self.scan_print.as_deref() {
            Some(&(of, print)) if of == version => print,
            _ => self.scan_print.insert(Box::new((version, print_of(topology)))).1,
        }
    }

    /// Whether clients are not to know that there is a cluster.
    pub(super) fn shows_one_server(&self) -> bool {
        self.worker.is_cluster() && self.worker.shared.config.cluster.view == ClusterView::Standalone
    }
}

/// The masters, in the order of their addresses: so every crema has them in the same.
pub(super) fn masters(topology: &Topology) -> Vec<NodeIndex> {
    let mut masters: Vec<_> = topology.nodes().map(|(at, node)| (&node.address, at)).collect();
    masters.sort_by(|one, other| one.0.cmp(other.0));
    masters.into_iter().map(|(_, at)| at).collect()
}

/// Who serves the slot of this number; where it is none, the front, which says so.
fn owner_of(number: &[u8], topology: &Topology) -> NodeIndex {
    let number = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
    let slot = number.and_then(HashSlot::nth);
    let owner = slot.and_then(|slot| topology.cluster()?.owner(slot));
    owner.unwrap_or(topology.front_index())
}

/// Numbers that are others where there are other masters, or other owners of slots.
fn print_of(topology: &Topology) -> ScanPrint {
    // FNV-1a: the same in every process.
    let mix = |print: u64, byte: u8| (print ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let mut of_masters = 0xcbf2_9ce4_8422_2325;
    let masters = masters(topology);
    let mut places = vec![None; masters.iter().map(|at| at.number() + 1).max().unwrap_or_default()];
    for (place, at) in masters.iter().enumerate() {
        places[at.number()] = Some(place);
        let address = topology.cluster().and_then(|map| map.shard(*at)).map(|shard| &shard.node.address);
        for byte in address.iter().flat_map(|address| address.bytes()).chain([0]) {
            of_masters = mix(of_masters, byte);
        }
    }
    let owner = |slot| topology.cluster().and_then(|map| map.owner(slot)).and_then(|at| places[at.number()]);
    let slots = ScanPrint::of_slots((0..HashSlot::COUNT).filter_map(HashSlot::nth).map(owner));
    ScanPrint { count: masters.len(), masters: of_masters, slots }
}

/// The cursor in a node's answer to SCAN; none where it is an error.
fn next_of(reply: &[u8]) -> Option<u64> {
    let cursor = text_of(Elements::of(reply)?.next()?.ok()?)?;
    std::str::from_utf8(cursor).ok()?.parse().ok()
}

/// The same answer with another cursor.
fn with_cursor(reply: &[u8], cursor: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(reply.len() + 24);
    let Some(mut elements) = Elements::of(reply) else { return reply.to_vec() };
    encode::array_header(&mut out, elements.len());
    let _ = elements.next();
    encode::bulk(&mut out, cursor.to_string().as_bytes());
    out.extend_from_slice(elements.bytes());
    out
}

/// Whether a node says that it has the slots which the map gives it, all of them and no others, and that none comes or goes.
fn has_its_slots(nodes: &[u8], at: NodeIndex, topology: &Topology) -> bool {
    let text = String::from_utf8_lossy(nodes);
    let Some(own) = text.lines().find(|line| line.split(' ').nth(2).is_some_and(|flags| flags.contains("myself")))
    else {
        return false;
    };
    let Some(map) = topology.cluster() else { return false };
    let mut said = 0;
    for range in own.split_ascii_whitespace().skip(8) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else { return false };
        if !(first..=last).all(|slot| HashSlot::nth(slot).and_then(|slot| map.owner(slot)) == Some(at)) {
            return false;
        }
        said += last - first + 1;
    }
    said == (0..HashSlot::COUNT).filter_map(HashSlot::nth).filter(|&slot| map.owner(slot) == Some(at)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_found_and_put_in_place_of_another() {
        let reply = b"*2\r\n$2\r\n17\r\n*1\r\n$1\r\nk\r\n";
        assert_eq!(next_of(reply), Some(17));
        assert_eq!(with_cursor(reply, 12345), b"*2\r\n$5\r\n12345\r\n*1\r\n$1\r\nk\r\n");
        for error in [&b"-ERR invalid cursor\r\n"[..], b"*0\r\n", b"*2\r\n$1\r\nx\r\n*0\r\n"] {
            assert_eq!(next_of(error), None);
        }
    }
}
