//! A login of crema's own whose password changes: it stands in a file, or a command prints it.
//!
//! Services give out tokens that last for minutes. So the file is read before each connection, and each half second whether it has
//! changed; the command is run as often as the settings say. Where that fails, the last password goes on, and it is told. A new
//! one is *proved* by a connection that was made with it, and only then do open connections log in with it (point 1: no client
//! sees an error because of it). Redis itself leaves a connection logged in whose password changed; services end it.

use std::fmt;
use std::io;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::Mutex as Turns;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::Login;
use crate::config::PasswordOrigin;

/// How often it is looked whether a file has changed.
pub(crate) const LOOK: Duration = Duration::from_millis(500);
/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer passwords are none.
const LONGEST: usize = 64 << 10;
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

    /// Before a connection is made: what stands there now. Where it cannot be read, what stood there last. Who comes while it is
    /// read waits. Cancel safe: a command under way is ended.
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
        PasswordOrigin::File(path) => std::fs::read(path).map_err(|error| error.to_string()),
        PasswordOrigin::Command { words, .. } => match timeout(PATIENCE, run(words)).await {
            Ok(printed) => printed,
            Err(_) => Err(format!("it has not ended within {PATIENCE:?}")),
        },
    };
    let bytes = read.map_err(|why| format!("{origin}: {why}"))?;
    let password = bytes.trim_ascii();
    if password.is_empty() || password.len() > LONGEST {
        return Err(format!("{origin}: there is no password in it"));
    }
    Ok(password.into())
}

async fn run(words: &[String]) -> Result<Vec<u8>, String> {
    let [program, arguments @ ..] = words else { return Err("it is empty".to_owned()) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output: io::Result<_> = command.output().await;
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or_default();
    Err(format!("it ended with {}: {}", output.status, last.chars().take(200).collect::<String>()))
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
        ] {
            let wrong = RotatingLogin::start(b"u", origin).await.expect_err("it is wrong");
            assert!(wrong.starts_with(says), "{wrong}");
        }
    }
}
