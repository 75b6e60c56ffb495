//! Holds the command table against a running Redis: what it says of its own commands, and what it does.

use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crema::command::{self, Categories, Class, CommandFlags, Effect, KeySpec, Merge, Portrait, Route, Spec, Spread};
use crema::resp::{Limits, Parsed, Parser, encode};
use tempfile::TempDir;

/// Requests whose keys stand behind words or numbers that only the command knows; the rest are made up from what the
/// server says. Options that are named like other options, or like keys, are where a parser goes wrong.
const EXAMPLES: &[&str] = &[
    "SORT k",
    "SORT k BY w_* LIMIT 0 10 GET # GET store DESC ALPHA",
    "SORT k BY store GET store STORE d",
    "sort k limit store store sToRe d asc",
    "SORT k STORE d STORE e",
    "SORT_RO k BY w_* GET store",
    "MIGRATE 127.0.0.1 6379 k 0 1000",
    "MIGRATE 127.0.0.1 6379 k 0 1000 COPY REPLACE AUTH keys",
    "MIGRATE 127.0.0.1 6379 '' 0 1000 REPLACE AUTH2 keys keys KEYS a b keys",
    "MIGRATE 127.0.0.1 6379 '' 0 1000",
    "GEORADIUS k 1 2 3 m",
    "GEORADIUS k 1 2 3 m COUNT 5 ANY STORE d",
    "GEORADIUS k 1 2 3 m storedist store",
    "GEORADIUSBYMEMBER k store 3 m",
    "GEORADIUSBYMEMBER k store 3 m ASC STOREDIST d",
    "GEORADIUS_RO k 1 2 3 m",
    "GEORADIUSBYMEMBER_RO k m 3 m",
    "XREAD STREAMS a 0",
    "XREAD COUNT 2 BLOCK 1 STREAMS streams a b 0 0 0",
    "XREADGROUP GROUP streams streams STREAMS a >",
    "XREADGROUP GROUP g block NOACK COUNT 1 BLOCK 1 streams a b > >",
    "ZUNIONSTORE d 2 a b WEIGHTS 1 2",
    "ZINTERSTORE d 1 a AGGREGATE MAX",
    "ZDIFFSTORE d 3 a b c",
    "ZUNION 2 a b WITHSCORES",
    "LMPOP 2 a b LEFT COUNT 3",
    "BLMPOP 0.1 2 a b LEFT",
    "ZMPOP 1 a MIN",
    "BZMPOP 0.1 3 a b c MAX COUNT 2",
    "SINTERCARD 2 a b LIMIT 1",
    "EVAL 'return 1' 2 a b c",
    "EVAL 'return 1' 0 a",
    "FCALL f 1 a b",
    "BITOP AND d a b",
    "MSET a 1 b 2 c 3",
    "BLPOP a b c 0.1",
    "PFCOUNT a b",
    "PFMERGE d a b",
    "COPY a b DB 1 REPLACE",
    "XGROUP CREATE a g $ MKSTREAM",
    "OBJECT ENCODING a",
    "MEMORY USAGE a SAMPLES 0",
];

#[test]
fn every_live_command_has_a_row_that_says_the_same() {
    Server::all().for_each(|server| compare_rows(&server));
}

fn compare_rows(server: &Server) {
    let live = server.connect().commands();
    assert!(live.len() > 300, "only {} commands were told", live.len());
    for told in &live {
        let spec = row(&told.name);
        assert_eq!(spec.name, told.name);
        // Later servers take more: an exact number of arguments became the smallest, or the smallest one less.
        let widened = spec.arity == -told.arity.abs() || told.arity < 0 && spec.arity == told.arity + 1;
        assert!(spec.arity == told.arity || widened, "{}: {} is {} here", told.name, spec.arity, told.arity);
        // What waits for replicas was flagged as blocking later; and one flag COMMAND keeps to itself.
        let later =
            if spec.class == Class::Connection { spec.flags & CommandFlags::BLOCKING } else { CommandFlags::NONE };
        let untold = spec.flags & CommandFlags::MAY_REPLICATE;
        assert_eq!(spec.flags, told.flags | later | untold, "{}", told.name);
        // A container cannot be run: its row says what those under it may be.
        let blocking = Categories::named("blocking").filter(|_| later != CommandFlags::NONE).unwrap_or_default();
        let same = spec.categories == told.categories | blocking;
        assert!(same || told.is_container, "{}: {:?} is {:?} here", told.name, spec.categories, told.categories);
    }
}

/// Where a command goes in a cluster, and why not as the server would have it.
const OTHERWISE: &[(&str, Spread)] = &[
    ("ping", Spread::OneNode),                          // that all are there is not asked
    ("msetnx", Spread::OneNode),                        // all or nothing: no parts
    ("info", Spread::Face(Portrait::Server)),           // the front's, of one server
    ("scan", Spread::Cursor),                           // "special"
    ("randomkey", Spread::Masters(Merge::Pick)),        // no policy is said for the answers
    ("slowlog|get", Spread::Masters(Merge::Newest)),    // nor here
    ("commandlog|get", Spread::Masters(Merge::Newest)), // nor here
    ("latency|reset", Spread::Masters(Merge::Sum)),     // it answers a number
    ("script|exists", Spread::Masters(Merge::Min)),     // of a list
    ("acl|deluser", Spread::Masters(Merge::Agree)),     // of the same users everywhere
    ("client|setinfo", Spread::OneNode),                // kept, and told on the connections of the client's own
    ("client|setname", Spread::OneNode),                // likewise
    ("mget", Spread::Slots(Merge::InOrder)),
    ("mset", Spread::Slots(Merge::Agree)),
    ("del", Spread::Slots(Merge::Sum)),
    ("exists", Spread::Slots(Merge::Sum)),
    ("touch", Spread::Slots(Merge::Sum)),
    ("unlink", Spread::Slots(Merge::Sum)),
];

#[test]
fn commands_go_where_the_server_s_tips_send_them() {
    Server::all().for_each(|server| compare_tips(&server));
}

fn compare_tips(server: &Server) {
    let mut compared = 0;
    for told in server.connect().commands() {
        if !told.tips.iter().any(|tip| tip.starts_with("request_policy:")) {
            continue;
        }
        compared += 1;
        let spec = row(&told.name);
        let otherwise = OTHERWISE.iter().find(|(name, _)| *name == told.name).map(|(_, spread)| *spread);
        let tips = told.tips.iter().map(String::as_bytes);
        let expected = otherwise.unwrap_or_else(|| Spread::of_tips(tips));
        assert_eq!(spec.spread, expected, "{}: {:?}", told.name, told.tips);
    }
    assert!(compared > 30 || compared == 0, "only {compared} commands had tips");
}

/// A key that a write command writes and that we do not know of stays in L1 with its old value: the worst that can happen.
#[test]
fn keys_are_those_that_the_server_finds() {
    Server::all().for_each(|server| compare_all_keys(&server));
}

fn compare_all_keys(server: &Server) {
    let mut client = server.connect();
    let live = client.commands();
    let mut compared: HashMap<String, usize> = HashMap::new();
    for told in &live {
        for request in told.requests() {
            *compared.entry(told.name.clone()).or_default() += compare_keys(&mut client, &request);
        }
    }
    for example in EXAMPLES {
        let request = words(example);
        let name = spec_of(&request).name.to_owned();
        *compared.entry(name).or_default() += compare_keys(&mut client, &request);
    }
    for told in &live {
        let spec = row(&told.name);
        let keys = compared.get(&told.name).copied().unwrap_or_default();
        if told.has_keys {
            assert!(keys > 0, "{}: no key was compared", told.name);
            assert!(!matches!(spec.keys, KeySpec::None | KeySpec::Unknown), "{}", told.name);
        }
        let effect = (told.flags.contains(CommandFlags::WRITE), told.has_keys, told.changes_keys, spec.effect);
        let agrees = match effect {
            (true, true, _, effect) => effect == Effect::Write,
            // Functions are written and are no keys.
            (true, false, _, effect) => effect == Effect::Opaque || spec.class == Class::Script,
            (false, _, true, effect) => matches!(effect, Effect::Write | Effect::Opaque),
            (false, _, false, effect) => effect != Effect::Write,
        };
        assert!(agrees, "{}: {effect:?}", told.name);
    }
}

/// What Redis executes is not always what COMMAND GETKEYS says: here is more written than told.
#[test]
fn stored_keys_are_found_as_the_server_runs_the_command() {
    let server = Server::start();
    let mut client = server.connect();
    client.call(&words("RPUSH src 2 1"));
    client.call(&words("GEOADD geo 1 2 m"));
    for request in [
        words("SORT src STORE limit STORE dst"),
        words("SORT src STORE by ALPHA store dst"),
        vec![b"SORT".to_vec(), b"src".to_vec(), b"STORE\0x".to_vec(), b"dst".to_vec()],
        words("GEORADIUS geo 1 2 3 km STORE store STORE dst"),
        words("GEORADIUSBYMEMBER geo m 3 km COUNT 1 STOREDIST dst"),
    ] {
        client.call(&words("DEL dst"));
        assert!(matches!(client.call(&request), Reply::Integer(1..)), "{} stored nothing", shown(&request));
        assert_eq!(client.call(&words("EXISTS dst")), Reply::Integer(1));
        assert!(keys_of(&request).contains(&b"dst"[..]), "{}", shown(&request));
    }
}

/// The promise of [`Route::Lane`], tried with arguments that mean nothing and with arguments that mean something.
#[test]
fn lane_commands_answer_once_and_leave_the_connection_as_it_was() {
    Server::all().for_each(|server| try_lane_commands(&server));
}

fn try_lane_commands(server: &Server) {
    let mut client = server.connect();
    let mut tried = 0;
    for told in client.commands() {
        if row(&told.name).route != Route::Lane {
            continue;
        }
        let filled = |word: &str| told.filled(told.smallest(), |_| word.to_owned());
        let mut requests: Vec<_> = ["x", "1", "on", "off"].map(filled).into();
        requests.extend(EXAMPLES.iter().map(|line| words(line)).filter(|request| spec_of(request).name == told.name));
        for request in requests {
            let before = client.state();
            client.send(&request);
            client.send(&words("ECHO behind"));
            client.receive();
            assert_eq!(client.receive(), Reply::Text("behind".into()), "{} is not answered once", shown(&request));
            assert_eq!(client.state(), before, "{}", shown(&request));
            tried += 1;
        }
    }
    assert!(tried > 500, "only {tried} requests were tried");
}

/// Compares what COMMAND GETKEYS says with what we say; the number of keys. Arguments that the server calls invalid have
/// no keys that it could write.
fn compare_keys(client: &mut Client, request: &[Vec<u8>]) -> usize {
    let mut ask = words("COMMAND GETKEYS");
    ask.extend(request.iter().cloned());
    let told: BTreeSet<Vec<u8>> = match client.call(&ask) {
        Reply::Array(keys) => keys.into_iter().map(|key| key.text().into_bytes()).collect(),
        Reply::Error(text) if text.contains("Invalid arguments") => return 0,
        other => panic!("{}: {other:?}", shown(request)),
    };
    let mut found = keys_of(request);
    // With STORE twice we take both, the server the last.
    let spec = spec_of(request);
    if matches!(spec.keys, KeySpec::Sort | KeySpec::GeoRadius) {
        found.retain(|key| told.contains(key));
    }
    assert_eq!(found, told, "{}", shown(request));
    told.len()
}

fn row(name: &str) -> &'static Spec {
    spec_of(&name.split('|').map(|part| part.as_bytes().to_vec()).collect::<Vec<_>>())
}

fn spec_of(request: &[Vec<u8>]) -> &'static Spec {
    parsed(request, command::lookup).unwrap_or_else(|| panic!("{} has no row", shown(request)))
}

fn shown(request: &[Vec<u8>]) -> String {
    request.join(&b' ').escape_ascii().to_string()
}

fn keys_of(request: &[Vec<u8>]) -> BTreeSet<Vec<u8>> {
    let spec = spec_of(request);
    parsed(request, |request| spec.keys(request).map(<[u8]>::to_vec).collect())
}

fn parsed<T>(request: &[Vec<u8>], see: impl FnOnce(crema::resp::Request<'_>) -> T) -> T {
    let bytes = wire(request);
    let mut parser = Parser::new();
    let done = parser.parse(&bytes, &Limits::authenticated()).expect("we write valid requests");
    assert_eq!(done, Parsed::Request { consumed: bytes.len() });
    see(parser.request(&bytes))
}

fn wire(request: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::command(&mut bytes, &request.iter().map(Vec::as_slice).collect::<Vec<_>>());
    bytes
}

/// A line as arguments; `''` is an empty one, and quotes hold blanks together.
fn words(line: &str) -> Vec<Vec<u8>> {
    let mut quoted = false;
    let mut words = vec![];
    for (at, part) in line.split('\'').enumerate() {
        quoted = at % 2 == 1;
        if quoted {
            words.push(part.as_bytes().to_vec());
        } else {
            words.extend(part.split_whitespace().map(|word| word.as_bytes().to_vec()));
        }
    }
    assert!(!quoted, "{line}: a quote does not end");
    words
}

/// What the server tells of one of its commands.
#[expect(clippy::struct_excessive_bools, reason = "each is a word of the reply")]
struct Told {
    name: String,
    arity: i16,
    flags: CommandFlags,
    categories: Categories,
    is_container: bool,
    /// Whether its keys cannot be found by place alone.
    movable: bool,
    has_keys: bool,
    /// Whether it may change one of them, whatever its flags say.
    changes_keys: bool,
    /// Where numbers of keys are.
    counts: Vec<usize>,
    tips: Vec<String>,
}

impl Told {
    /// One entry of COMMAND's reply.
    fn new(entry: &[Reply]) -> Told {
        let names = entry[2].array().iter().map(|flag| match flag.text().as_str() {
            "write" => CommandFlags::WRITE,
            "readonly" => CommandFlags::READONLY,
            "blocking" => CommandFlags::BLOCKING,
            "admin" => CommandFlags::ADMIN,
            "pubsub" => CommandFlags::PUBSUB,
            "denyoom" => CommandFlags::DENYOOM,
            _ => CommandFlags::NONE,
        });
        let categories = entry[6].array().iter().map(|name| {
            Categories::named(name.text().trim_start_matches('@')).unwrap_or_else(|| panic!("{}", name.text()))
        });
        let specs: Vec<_> = entry[8].array().iter().map(Reply::map).collect();
        let flagged =
            |spec: &HashMap<String, Reply>, flag: &str| spec["flags"].array().iter().any(|f| f.text() == flag);
        let counts = specs.iter().filter(|spec| spec["find_keys"].map()["type"].text() == "keynum").map(|spec| {
            let begin = spec["begin_search"].map()["spec"].map()["index"].integer();
            let offset = spec["find_keys"].map()["spec"].map()["keynumidx"].integer();
            usize::try_from(begin + offset).expect("numbers of keys stand at fixed places")
        });
        Told {
            name: entry[0].text(),
            arity: i16::try_from(entry[1].integer()).expect("an arity is small"),
            flags: names.fold(CommandFlags::NONE, CommandFlags::union),
            categories: categories.fold(Categories::NONE, |all, one| all | one),
            is_container: !entry[9].array().is_empty(),
            movable: entry[2].array().iter().any(|flag| flag.text() == "movablekeys"),
            has_keys: specs.iter().any(|spec| !flagged(spec, "not_key")),
            changes_keys: specs.iter().any(|spec| ["RW", "OW", "RM"].iter().any(|flag| flagged(spec, flag))),
            counts: counts.collect(),
            tips: entry[7].array().iter().map(Reply::text).collect(),
        }
    }

    fn smallest(&self) -> usize {
        usize::from(self.arity.unsigned_abs())
    }

    /// The command with this many arguments in all.
    fn filled(&self, argc: usize, word: impl Fn(usize) -> String) -> Vec<Vec<u8>> {
        let mut request: Vec<_> = self.name.split('|').map(|part| part.as_bytes().to_vec()).collect();
        request.extend((request.len()..argc).map(|at| word(at).into_bytes()));
        request
    }

    /// Made-up requests of several lengths that name keys; none where the keys stand behind a word.
    fn requests(&self) -> Vec<Vec<Vec<u8>>> {
        if !self.has_keys || self.movable && self.counts.is_empty() {
            return vec![];
        }
        let longest = if self.arity < 0 { self.smallest() + 5 } else { self.smallest() };
        let lengths = self.smallest()..=longest;
        let filled = lengths.map(|argc| {
            let mut request = self.filled(argc, |at| format!("k{at}"));
            for &at in &self.counts {
                request[at] = (argc - at - 1).min(2).to_string().into_bytes();
            }
            request
        });
        filled.collect()
    }
}

/// A Redis of our own, ended with the value.
struct Server {
    child: Child,
    dir: TempDir,
}

impl Server {
    fn start() -> Server {
        Server::run(Path::new("redis-server"))
    }

    /// And a later one, where `make test` has built it.
    fn all() -> impl Iterator<Item = Server> {
        let newer = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tcl/newer/src/redis-server");
        [Some(Server::start()), newer.exists().then(|| Server::run(&newer))].into_iter().flatten()
    }

    fn run(program: &Path) -> Server {
        let dir = tempfile::tempdir().expect("a directory for the server");
        let child = Command::new(program)
            .args(["--port", "0", "--unixsocket", "socket", "--save", "", "--dir"])
            .arg(dir.path())
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        Server { child, dir }
    }

    fn connect(&self) -> Client {
        let start = Instant::now();
        loop {
            match UnixStream::connect(self.dir.path().join("socket")) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket takes a timeout");
                    return Client(BufReader::new(stream));
                }
                Err(error) => assert!(start.elapsed() < Duration::from_secs(20), "no server: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A RESP2 connection.
struct Client(BufReader<UnixStream>);

impl Client {
    fn send(&mut self, request: &[Vec<u8>]) {
        self.0.get_mut().write_all(&wire(request)).expect("the server reads");
    }

    fn call(&mut self, request: &[Vec<u8>]) -> Reply {
        self.send(request);
        self.receive()
    }

    fn receive(&mut self) -> Reply {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("the server answers");
        let (kind, rest) = line.trim_end().split_at(1);
        let number = || rest.parse::<i64>().expect("a header has a number");
        match kind {
            "+" => Reply::Text(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Integer(number()),
            "$" | "*" if number() < 0 => Reply::Null,
            "$" => {
                let mut bytes = vec![0; usize::try_from(number()).expect("not negative") + 2];
                self.0.read_exact(&mut bytes).expect("the server goes on");
                bytes.truncate(bytes.len() - 2);
                Reply::Text(String::from_utf8_lossy(&bytes).into_owned())
            }
            "*" => Reply::Array((0..number()).map(|_| self.receive()).collect()),
            _ => panic!("no reply begins with {line:?}"),
        }
    }

    /// All commands and subcommands that the server has.
    fn commands(&mut self) -> Vec<Told> {
        let Reply::Array(entries) = self.call(&words("COMMAND")) else { panic!("COMMAND gives an array") };
        let mut told = vec![];
        for entry in &entries {
            let entry = entry.array();
            // What a module brings, those within a later server included, is not in the table.
            if entry[2].array().iter().any(|flag| flag.text() == "module") {
                continue;
            }
            told.push(Told::new(entry));
            told.extend(entry[9].array().iter().map(|sub| Told::new(sub.array())));
        }
        told
    }

    /// What of this connection a command could change.
    fn state(&mut self) -> Vec<String> {
        let info = self.call(&words("CLIENT INFO")).text();
        let kept = ["id", "name", "flags", "db", "sub", "psub", "ssub", "multi", "user", "redir", "resp"];
        let fields = info.split_whitespace().filter(|field| kept.iter().any(|&k| field.split('=').next() == Some(k)));
        let fields: Vec<_> = fields.map(str::to_owned).collect();
        assert_eq!(fields.len(), kept.len(), "{info}");
        fields
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Reply {
    Text(String),
    Error(String),
    Integer(i64),
    Array(Vec<Reply>),
    Null,
}

impl Reply {
    fn text(&self) -> String {
        let Reply::Text(text) = self else { panic!("{self:?} is no text") };
        text.clone()
    }

    fn integer(&self) -> i64 {
        let Reply::Integer(number) = self else { panic!("{self:?} is no number") };
        *number
    }

    fn array(&self) -> &[Reply] {
        let Reply::Array(elements) = self else { panic!("{self:?} is no array") };
        elements
    }

    fn map(&self) -> HashMap<String, Reply> {
        self.array().chunks(2).map(|pair| (pair[0].text(), pair[1].clone())).collect()
    }
}
