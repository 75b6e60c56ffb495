//! Passwords of crema's own (`auth = "own"`): who a client is, decided here and without Redis.
//!
//! The words are Redis's, as of version 7. What a client proves here maps to a login of the upstream, which no client sees. A
//! certificate can stand for the password (`tls_client_user`).
//!
//! To check a hash takes tens of milliseconds, and is meant to: it is done beside the workers, for few clients at once, and the
//! others wait for their turn. What was found right is remembered for the process's life, not as it is but as its tag under a key
//! that nobody else has; so a fleet of clients that connects again costs one check for each user. How long a refusal takes does not
//! tell a name that there is from one that there is not: each name, known or not, has its hash to be checked against.
//!
//! A password in a file is read at start and then once a second, by a task of the control thread: no client makes crema read. Who
//! would be refused waits for that.
//!
//! Holds contract point 8.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;
use std::time::Duration;

use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::wire::ClientLine;
use super::{Admission, Close, Session};
use crate::config::{Auth, CertificateUser, Password, UpstreamPassword, User};
use crate::control::Control;
use crate::metrics::Failure;
use crate::net::Socket;
use crate::proxy::Who;
use crate::resp::encode;
use crate::upstream::Login;

pub(super) const NO_AUTH: &[u8] = b"-NOAUTH Authentication required.\r\n";
pub(super) const NO_AUTH_FOR_HELLO: &[u8] = b"-NOAUTH HELLO must be called with the client already authenticated, \
    otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP \
    protocol version at the same time\r\n";
const WRONG_PASS: &[u8] = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n";
/// How long a login may wait for its turn to be checked.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether a password in a file has changed.
const LOOK: Duration = Duration::from_secs(1);

/// The users that crema itself lets in, and what was proved of them.
pub(super) struct Passwords {
    users: Vec<KnownUser>,
    /// Users with a hash, by their place: whom a name that nobody has is checked against.
    with_hash: Vec<usize>,
    /// What proofs are tagged with: random, and forgotten with the process.
    key: hmac::Key,
    /// What the password of nobody is compared with, to no avail.
    nobody: hmac::Tag,
    /// When files were last begun to be looked at, and all have been.
    looked: watch::Sender<Instant>,
    /// Hashes that may be checked at once.
    turns: Arc<Semaphore>,
    control: Control,
}

struct KnownUser {
    settings: User,
    /// The tag of the password: as it was read last, or as it was found right last.
    proof: Mutex<Option<hmac::Tag>>,
}

/// Why a login was not found right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Denial {
    /// No user has this name and this password.
    Wrong,
    /// So many are being checked that its turn did not come.
    Busy,
}

impl Passwords {
    /// Reads the passwords that stand in files, and sees to it that it is done again when they change. Fails with a sentence that
    /// names the file.
    pub(super) fn start(auth: &Auth, control: Control) -> Result<Arc<Self>, String> {
        let passwords = Arc::new(Self::new(auth, control));
        for user in &passwords.users {
            user.read(&passwords.key)?;
        }
        if passwords.users.iter().any(KnownUser::is_in_file) {
            passwords.control.spawn(Arc::clone(&passwords).follow_files());
        }
        Ok(passwords)
    }

    fn new(auth: &Auth, control: Control) -> Self {
        let users = match auth {
            Auth::Own(users) => users.clone(),
            Auth::Upstream | Auth::Open => Vec::new(),
        };
        let users: Vec<_> = users.into_iter().map(|settings| KnownUser { settings, proof: Mutex::default() }).collect();
        let with_hash = (0..users.len()).filter(|&at| users[at].hash().is_some()).collect();
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let key = key.expect("the system gives random bytes, without which nothing here would have started");
        // Half of the processors at most, for those who are logged in have a right to the rest.
        let turns = available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
        let nobody = hmac::sign(&key, b"");
        let looked = watch::Sender::new(Instant::now());
        Self { users, with_hash, key, nobody, looked, turns: Arc::new(Semaphore::new(turns)), control }
    }

    /// Never returns.
    async fn follow_files(self: Arc<Self>) {
        let mut troubles = vec![None; self.users.len()];
        loop {
            sleep(LOOK).await;
            let began = Instant::now();
            let passwords = Arc::clone(&self);
            let read = self.control.spawn_blocking(move || {
                passwords.read_files(&mut troubles);
                troubles
            });
            troubles = read.await.unwrap_or_else(|_| vec![None; self.users.len()]);
            self.looked.send_replace(began);
        }
    }

    /// Reads what stands in files now. Where that cannot be read, what stood there last counts, and the `troubles` that each user
    /// has are told once.
    fn read_files(&self, troubles: &mut [Option<String>]) {
        for (user, trouble) in self.users.iter().zip(troubles).filter(|(user, _)| user.is_in_file()) {
            let name = &user.settings.name;
            let read = user.read(&self.key);
            match &read {
                Ok(true) => info!("the password of user `{name}` was read anew"),
                Ok(false) => {}
                Err(why) if trouble.as_ref() == Some(why) => {}
                Err(why) => warn!("the password of user `{name}` stays as it was: {why}"),
            }
            *trouble = read.err();
        }
    }

    /// The user who has this name and this password. Cancel safe: a check that is under way ends by itself, and is remembered.
    async fn find(self: &Arc<Self>, given: &Login) -> Result<&User, Denial> {
        let came = Instant::now();
        if let Some(user) = self.proved(given) {
            return Ok(user);
        }
        if let Some(user) = self.hashed(given).await? {
            return Ok(user);
        }
        self.looked_after(came).await;
        self.proved(given).ok_or(Denial::Wrong)
    }

    /// The user whose password is known to be this. As much is done for a name that nobody has.
    fn proved(&self, given: &Login) -> Option<&User> {
        let user = self.user(&given.user);
        let proof = user.and_then(|at| self.users[at].proof());
        let is_right = hmac::verify(&self.key, &given.password, proof.unwrap_or(self.nobody).as_ref()).is_ok();
        user.filter(|_| is_right && proof.is_some()).map(|at| &self.users[at].settings)
    }

    /// The user whose hash is that of this password.
    async fn hashed(self: &Arc<Self>, given: &Login) -> Result<Option<&User>, Denial> {
        let user = self.user(&given.user);
        let Some(checked) = self.checked(user, &given.user) else { return Ok(None) };
        let turn = timeout(PATIENCE, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(Denial::Busy) };
        let (passwords, password) = (Arc::clone(self), given.password.clone());
        let check = self.control.spawn_blocking(move || {
            let _turn = turn;
            let right = passwords.users[checked].has_hash_of(&password);
            if right && user == Some(checked) {
                passwords.users[checked].remember(hmac::sign(&passwords.key, &password));
            }
            right
        });
        let is_right = matches!(check.await, Ok(true));
        Ok(user.filter(|at| is_right && *at == checked).map(|at| &self.users[at].settings))
    }

    /// Waits until files have been looked at since, where passwords stand in such: who gives a new one is not refused because it
    /// was not read yet. Whoever guesses waits as well, whatever the name.
    async fn looked_after(&self, came: Instant) {
        if self.users.iter().any(KnownUser::is_in_file) {
            let _ = timeout(PATIENCE, self.looked.subscribe().wait_for(|began| *began > came)).await;
        }
    }

    /// The user of this name.
    pub(super) fn named(&self, name: &str) -> Option<&User> {
        self.user(name.as_bytes()).map(|at| &self.users[at].settings)
    }

    fn user(&self, name: &[u8]) -> Option<usize> {
        self.users.iter().position(|user| user.settings.name.as_bytes() == name)
    }

    /// Whose hash a login is checked against that was not found right: the user's own, or one that the name always leads to.
    fn checked(&self, user: Option<usize>, name: &[u8]) -> Option<usize> {
        if let Some(own) = user.filter(|at| self.with_hash.contains(at)) {
            return Some(own);
        }
        let tag = hmac::sign(&self.key, name);
        let number = tag.as_ref().iter().take(8).fold(0, |number: usize, byte| number << 8 | usize::from(*byte));
        self.with_hash.get(number.checked_rem(self.with_hash.len())?).copied()
    }
}

impl KnownUser {
    fn hash(&self) -> Option<&str> {
        match &self.settings.password {
            Some(Password::Hash(hash)) => Some(hash.expose()),
            Some(Password::Plain(_) | Password::File(_)) | None => None,
        }
    }

    fn has_hash_of(&self, password: &[u8]) -> bool {
        self.hash().is_some_and(|hash| password_auth::verify_password(password, hash).is_ok())
    }

    fn is_in_file(&self) -> bool {
        matches!(self.settings.password, Some(Password::File(_)))
    }

    /// Reads the password where it stands as it is; whether it is another than before. Waits for the file.
    fn read(&self, key: &hmac::Key) -> Result<bool, String> {
        let known = match &self.settings.password {
            Some(Password::Plain(known)) => hmac::sign(key, known.expose().as_bytes()),
            Some(Password::File(path)) => {
                let read = Password::read_file(path).map_err(|why| format!("password_file {why}"))?;
                hmac::sign(key, read.expose().as_bytes())
            }
            Some(Password::Hash(_)) | None => return Ok(false),
        };
        let is_new = self.proof().is_none_or(|before| before.as_ref() != known.as_ref());
        self.remember(known);
        Ok(is_new)
    }

    fn proof(&self) -> Option<hmac::Tag> {
        *self.proof.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, proof: hmac::Tag) {
        *self.proof.lock().unwrap_or_else(PoisonError::into_inner) = Some(proof);
    }
}

impl Session {
    /// Asks [`Passwords`], while the client's commands behind this one wait; the session is the one whose password it was, else
    /// the refusal comes back. A private connection that stays with the session becomes that user's first.
    pub(super) async fn log_in_here(
        &mut self,
        line: &mut ClientLine,
        given: &Login,
    ) -> Result<Result<(), Vec<u8>>, Close> {
        let passwords = Arc::clone(&self.entrance.passwords);
        let user = match line.while_writing(self, passwords.find(given)).await {
            Ok(user) => user,
            Err(denial) => {
                self.fails(Failure::Login);
                return Ok(Err(denial.words()));
            }
        };
        let login = self.login_of(user);
        if let Some(private) = self.own_lane()
            && login != self.caller.who.login
        {
            let Some(login) = &login else {
                self.fails(Failure::Login);
                return Ok(Err(cannot()));
            };
            let mut auth = Vec::new();
            encode::own_command(&mut auth, &[b"AUTH", &login.user, &login.password]);
            self.begin_login();
            let reply = self.capture(&private, &auth).await?;
            self.end_login(reply.starts_with(b"+").then_some(login));
            if !reply.starts_with(b"+") {
                self.fails(Failure::Login);
                return Ok(Err(reply));
            }
        }
        self.admission = Admission::Open;
        self.account = Some(user.name.as_str().into());
        let who = Who::new(&self.worker.shared, self.worker.front().node(), login, self.caller.who.db);
        self.caller.become_(who, self.caller.resp);
        Ok(Ok(()))
    }

    /// Lets in whom its certificate names, before it says anything. One that names nobody leaves its client as if it had shown
    /// none, as Redis 8.6 and Valkey 9 do with theirs (`tls-auth-clients-user`).
    pub(super) fn certify(&mut self, socket: &Socket) {
        if self.worker.shared.config.tls_client_user == CertificateUser::Off {
            return;
        }
        let Some(name) = socket.certified_name() else { return };
        let passwords = Arc::clone(&self.entrance.passwords);
        let Some(user) = passwords.user(name.as_bytes()) else {
            let (client, name) = (self.caller.replies.member().peer(), name.escape_debug());
            return warn!(%client, "a client's certificate names `{name}`, who is no [[user]]: it must give a password");
        };
        let who = Who::new(
            &self.worker.shared,
            self.worker.front().node(),
            self.login_of(&passwords.users[user].settings),
            self.caller.who.db,
        );
        self.admission = Admission::Open;
        self.account = Some(name.into());
        self.caller.become_(who, self.caller.resp);
    }

    /// What Redis is shown for a user.
    pub(super) fn login_of(&self, user: &User) -> Option<Arc<Login>> {
        match &user.upstream {
            Some((user, UpstreamPassword::Fixed(password))) => {
                let (user, password) = (user.as_bytes().into(), password.expose().as_bytes().into());
                Some(Arc::new(Login { user, password }))
            }
            Some((user, UpstreamPassword::Changes(origin))) => {
                let node = self.worker.shared.front();
                let source = node.rotating().iter().find(|source| source.is(user.as_bytes(), origin));
                source.map(|source| source.login())
            }
            None => self.worker.shared.login(),
        }
    }

    /// Passwords are crema's own.
    pub(super) fn keeps_passwords(&self) -> bool {
        matches!(self.worker.shared.config.auth, Auth::Own(_))
    }

    /// A login that crema cannot carry out, because what it would mean on this connection is Redis's to say, whose passwords are
    /// others.
    pub(super) fn refuse_login(&self) {
        self.fails(Failure::Login);
        self.answer(|out| out.extend_from_slice(&cannot()));
    }
}

impl Denial {
    fn words(self) -> Vec<u8> {
        match self {
            Self::Wrong => WRONG_PASS.to_vec(),
            Self::Busy => b"-ERR crema: too many logins are being checked, try again\r\n".to_vec(),
        }
    }
}

fn cannot() -> Vec<u8> {
    let mut out = Vec::new();
    encode::error(&mut out, "ERR crema: with auth = \"own\" no login is possible at this point of a connection");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    /// Of `right`, cheaply made.
    const HASH: &str = "$scrypt$ln=4,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$g5SYSEJiVeM1NrG+3lo5hJF358C1G+xhhfqVxmfJREI";

    fn user(name: &str, password: Password) -> User {
        User { name: name.to_owned(), password: Some(password), upstream: None }
    }

    fn passwords(users: Vec<User>) -> Arc<Passwords> {
        Passwords::start(&Auth::Own(users), Control::here()).expect("all can be read")
    }

    fn hashed() -> Password {
        Password::Hash(Secret::new(HASH))
    }

    async fn found(passwords: &Arc<Passwords>, user: &str, password: &str) -> Result<String, Denial> {
        let login = Login { user: user.as_bytes().into(), password: password.as_bytes().into() };
        passwords.find(&login).await.map(|user| user.name.clone())
    }

    #[tokio::test]
    async fn a_password_that_was_right_is_not_checked_again() {
        let passwords = passwords(vec![user("anna", hashed())]);
        assert_eq!(found(&passwords, "anna", "wrong").await, Err(Denial::Wrong));
        assert_eq!(found(&passwords, "anna", "right").await, Ok("anna".into()));
        passwords.turns.close(); // whatever would be checked is busy from here on
        assert_eq!(found(&passwords, "anna", "right").await, Ok("anna".into()));
        assert_eq!(found(&passwords, "anna", "wrong").await, Err(Denial::Busy));
    }

    #[tokio::test]
    async fn whatever_is_wrong_is_checked_where_one_user_has_a_hash() {
        let plain = user("plain", Password::Plain(Secret::new("open")));
        let passwords = passwords(vec![plain, user("anna", hashed()), user("berta", hashed())]);
        assert_eq!(found(&passwords, "nobody", "right").await, Err(Denial::Wrong), "another's hash proves nothing");
        assert_eq!(found(&passwords, "plain", "right").await, Err(Denial::Wrong));
        passwords.turns.close();
        for (user, password) in [("nobody", "right"), ("plain", "right"), ("berta", "x")] {
            assert_eq!(found(&passwords, user, password).await, Err(Denial::Busy), "{user}");
        }
        assert_eq!(found(&passwords, "plain", "open").await, Ok("plain".into()));
        assert_eq!(passwords.checked(None, b"nobody"), passwords.checked(None, b"nobody"), "always the same");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gets_no_turn_is_told_so() {
        let passwords = passwords(vec![user("anna", hashed())]);
        let all = u32::try_from(passwords.turns.available_permits()).expect("few");
        let _taken = passwords.turns.acquire_many(all).await.expect("open");
        assert_eq!(found(&passwords, "anna", "right").await, Err(Denial::Busy));
    }

    #[tokio::test]
    async fn a_file_is_read_anew_and_its_last_word_counts() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("password");
        let anna = || vec![user("anna", Password::File(path.clone()))];
        let no_file = Passwords::start(&Auth::Own(anna()), Control::here()).err().expect("there is no file");
        assert!(no_file.starts_with(&format!("password_file {}: ", path.display())), "{no_file}");
        std::fs::write(&path, "one\n").expect("our own directory");
        let passwords = passwords(anna());
        std::fs::write(&path, "two\n").expect("our own directory");
        assert_eq!(found(&passwords, "anna", "one").await, Ok("anna".into()), "no login reads a file");
        assert_eq!(found(&passwords, "anna", "two").await, Ok("anna".into()), "a new one waits for its being read");
        assert_eq!(found(&passwords, "anna", "one").await, Err(Denial::Wrong));
        assert_eq!(found(&passwords, "nobody", "").await, Err(Denial::Wrong));
        std::fs::remove_file(&path).expect("our own directory");
        let mut troubles = [None];
        passwords.read_files(&mut troubles);
        assert!(troubles[0].is_some());
        assert_eq!(found(&passwords, "anna", "two").await, Ok("anna".into()));
    }
}
