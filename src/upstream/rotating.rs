//! A login of crema's own whose password changes: it stands in a file, or a command prints it.
//!
//! Services give out tokens that last for minutes. So the file is read before each connection, and each half second whether it has
//! changed; the command is run as often as the settings say, and no connection waits for it. Where that fails, the last password
//! goes on, and it is told. A new one is *proved* by a connection that was made with it, and only then do open connections log in
//! with it (point 1: no client sees an error because of it). Redis itself leaves a connection logged in whose password changed;
//! services end it.

use std::fmt;
use std::io;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::Mutex as Turns;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::Login;
use crate::config::{LONGEST_PASSWORD, PasswordOrigin, read_password_file};

/// How often it is looked whether a file has changed.
pub(crate) const LOOK: Duration = Duration::from_millis(500);
/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Former passwords that are remembered, to know what was made with them.
const REMEMBERED: usize = 64;

/// See the module's head.
pub(crate) struct RotatingLogin {
    user: Box<[u8]>,
    origin: PasswordOrigin,
    known: Mutex<KnownPasswords>,
    /// Held by who reads; when that was done last.
    read: Turns<Option<Instant>>,
}

struct KnownPasswords {
    present: Arc<Login>,
    /// The last that made a connection.
    proved: Option<Arc<Login>>,
    former: Vec<Arc<Login>>,
}

impl fmt::Debug for RotatingLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RotatingLogin({})", String::from_utf8_lossy(&self.user))
    }
}

impl RotatingLogin {
    /// Reads the password for the first time. Fails with a sentence that names the file or the command.
    pub(crate) async fn start(user: &[u8], origin: PasswordOrigin) -> Result<Arc<Self>, String> {
        let password = read(&origin).await?;
        let present = Arc::new(Login { user: user.into(), password });
        let known = Mutex::new(KnownPasswords { present, proved: None, former: Vec::new() });
        Ok(Arc::new(Self { user: user.into(), origin, known, read: Turns::new(Some(Instant::now())) }))
    }

    /// Whether it is this user's, from there.
    pub(crate) fn is(&self, user: &[u8], origin: &PasswordOrigin) -> bool {
        *self.user == *user && self.origin == *origin
    }

    /// The password that was read last, with its user.
    pub(crate) fn login(&self) -> Arc<Login> {
        Arc::clone(&self.lock().present)
    }

    /// The last with which a connection was made.
    pub(crate) fn proved(&self) -> Option<Arc<Login>> {
        self.lock().proved.clone()
    }

    /// A connection was made with this, if it is one of these.
    pub(crate) fn prove(&self, login: &Arc<Login>) {
        let known = &mut *self.lock();
        if known.present == *login && known.proved.as_ref() != Some(login) {
            known.proved = Some(Arc::clone(login));
        }
    }

    /// Whether this login is, or was, what stood there.
    pub(crate) fn gave(&self, login: &Login) -> bool {
        let known = self.lock();
        *known.present == *login || known.former.iter().any(|former| **former == *login)
    }

    /// Before a connection is made: what stands in the file now, or what the command has printed last. That takes its time, and is
    /// run by whoever follows the password.
    pub(crate) async fn at_connect(&self) -> Arc<Login> {
        match self.origin {
            PasswordOrigin::File(_) => self.fresh().await,
            PasswordOrigin::Command { .. } => self.login(),
        }
    }

    /// What stands there now. Where it cannot be read, what stood there last. Who comes while it is read waits. Cancel safe: a
    /// command under way is ended.
    pub(crate) async fn fresh(&self) -> Arc<Login> {
        let mut last = self.read.lock().await;
        let stays = self.origin.stays();
        if last.is_none_or(|last| last.elapsed() >= stays) {
            match read(&self.origin).await {
                Ok(password) => self.learn(password),
                Err(why) => warn!("the password of user `{self}` stays as it was: {why}"),
            }
            *last = Some(Instant::now());
        }
        self.login()
    }

    fn learn(&self, password: Box<[u8]>) {
        let known = &mut *self.lock();
        if known.present.password == password {
            return;
        }
        let new = Arc::new(Login { user: self.user.clone(), password });
        let former = std::mem::replace(&mut known.present, new);
        if known.former.len() == REMEMBERED {
            known.former.remove(0);
        }
        known.former.push(former);
        info!("the password of user `{self}` has changed");
    }

    fn lock(&self) -> MutexGuard<'_, KnownPasswords> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for RotatingLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.user))
    }
}

/// The password; white space at its ends is none of it.
async fn read(origin: &PasswordOrigin) -> Result<Box<[u8]>, String> {
    let read = match origin {
        PasswordOrigin::File(path) => read_password_file(path),
        PasswordOrigin::Command { words, .. } => match timeout(PATIENCE, run(words)).await {
            Ok(printed) => printed,
            Err(_) => Err(format!("it has not ended within {PATIENCE:?}")),
        },
    };
    let bytes = read.map_err(|why| format!("{origin}: {why}"))?;
    let password = bytes.trim_ascii();
    if password.is_empty() || password.len() > LONGEST_PASSWORD {
        return Err(format!("{origin}: there is no password in it"));
    }
    Ok(password.into())
}

async fn run(words: &[String]) -> Result<Vec<u8>, String> {
    let [program, arguments @ ..] = words else { return Err("it is empty".to_owned()) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let mut group = CommandGroup::of(&child); // ends before the child is let go, and so while its number is its own
    let (printed, said) = (child.stdout.take(), child.stderr.take());
    let (printed, said) =
        tokio::try_join!(first_of(printed, true), first_of(said, false)).map_err(|error| error.to_string())?;
    let status = child.wait().await.map_err(|error| error.to_string())?;
    group.leader = None;
    if status.success() {
        return Ok(printed);
    }
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().last().unwrap_or_default();
    Err(format!("it ended with {status}: {}", last.chars().take(200).collect::<String>()))
}

/// All that comes, of which no more is kept than a password may have. More than that is an error, or thrown away.
async fn first_of(pipe: Option<impl AsyncRead + Unpin>, all: bool) -> io::Result<Vec<u8>> {
    let (mut kept, Some(mut pipe)) = (Vec::new(), pipe) else { return Ok(Vec::new()) };
    let most = u64::try_from(LONGEST_PASSWORD).unwrap_or(u64::MAX);
    (&mut pipe).take(most).read_to_end(&mut kept).await?;
    let more = if all { (&mut pipe).take(1).read(&mut [0]).await? } else { 0 };
    if more > 0 {
        return Err(io::Error::other("it prints more than a password"));
    }
    if !all {
        tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    }
    Ok(kept)
}

/// A command with all that it has started, which end with this.
struct CommandGroup {
    /// None once it has ended by itself.
    leader: Option<Pid>,
}

impl CommandGroup {
    fn of(child: &Child) -> Self {
        Self { leader: child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) }
    }
}

impl Drop for CommandGroup {
    fn drop(&mut self) {
        if let Some(leader) = self.leader {
            let _ = kill_process_group(leader, Signal::KILL); // it may have ended just now
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &[&str]) -> PasswordOrigin {
        PasswordOrigin::Command { words: line.iter().map(|word| (*word).to_owned()).collect(), refresh: Duration::ZERO }
    }

    #[tokio::test]
    async fn a_file_is_read_each_time_and_one_that_is_gone_leaves_the_last() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "one\n").expect("our own file");
        let login = RotatingLogin::start(b"u", PasswordOrigin::File(file.path().into())).await.expect("it can be read");
        let one = login.fresh().await;
        assert_eq!((&*one.user, &*one.password), (&b"u"[..], &b"one"[..]));
        login.prove(&one);
        std::fs::write(file.path(), "two").expect("our own file");
        let two = login.fresh().await;
        assert_eq!(&*two.password, b"two");
        assert!(login.gave(&one) && login.gave(&two));
        assert_eq!(login.proved(), Some(Arc::clone(&one)), "nobody has tried the new one yet");
        login.prove(&two);
        login.prove(&one);
        assert_eq!(login.proved(), Some(Arc::clone(&two)), "the former proves nothing any more");
        drop(file);
        assert_eq!(login.fresh().await, two);
    }

    #[tokio::test]
    async fn a_command_gives_what_it_prints_and_what_is_wrong_is_said() {
        let login = RotatingLogin::start(b"u", command(&["echo", " secret "])).await.expect("it prints");
        assert_eq!(&*login.login().password, b"secret");
        for (origin, says) in [
            (command(&["false"]), "`false`: it ended with exit status: 1"),
            (command(&["true"]), "`true`: there is no password in it"),
            (command(&["/no/such/program", "x"]), "`/no/such/program x`: No such file"),
            (PasswordOrigin::File("/no/such/file".into()), "/no/such/file: No such file"),
            (PasswordOrigin::File("/dev/zero".into()), "/dev/zero: not a file"),
        ] {
            let wrong = RotatingLogin::start(b"u", origin).await.expect_err("it is wrong");
            assert!(wrong.starts_with(says), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_command_that_floods_is_ended_with_all_that_it_has_started() {
        let directory = tempfile::tempdir().expect("a directory");
        let pid = directory.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; cat /dev/zero", pid.display());
        let said = run(&["sh".to_owned(), "-c".to_owned(), script]).await.expect_err("that is no password");
        assert_eq!(said, "it prints more than a password");
        ended(&pid).await;
    }

    #[tokio::test]
    async fn a_command_that_is_given_up_is_ended_with_all_that_it_has_started() {
        let directory = tempfile::tempdir().expect("a directory");
        let pid = directory.path().join("pid");
        // Its own process ends at once, and the one that it leaves holds its output.
        let script = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}", pid.display());
        let words = ["sh".to_owned(), "-c".to_owned(), script];
        let running = tokio::spawn(async move { run(&words).await });
        while !pid.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        running.abort();
        ended(&pid).await;
    }

    /// Waits until the process whose number stands there is gone, or is dead and nobody has asked how it ended.
    async fn ended(pid: &std::path::Path) {
        let pid = std::fs::read_to_string(pid).expect("it was written");
        let stat = format!("/proc/{}/stat", pid.trim());
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn much_that_a_command_complains_of_does_not_hold_it_up() {
        let script = "head -c 1000000 /dev/zero >&2; echo secret";
        let words = ["sh".to_owned(), "-c".to_owned(), script.to_owned()];
        assert_eq!(run(&words).await.as_deref(), Ok(&b"secret\n"[..]));
    }

    #[tokio::test]
    async fn no_connection_waits_for_a_command() {
        let directory = tempfile::tempdir().expect("a directory");
        let word = directory.path().join("word");
        std::fs::write(&word, "one").expect("our own directory");
        let login =
            RotatingLogin::start(b"u", command(&["cat", &word.display().to_string()])).await.expect("it prints");
        std::fs::write(&word, "two").expect("our own directory");
        assert_eq!(&*login.at_connect().await.password, b"one");
        assert_eq!(&*login.fresh().await.password, b"two");
        assert_eq!(&*login.at_connect().await.password, b"two");
    }
}
