//! Users of crema's own (`auth = "own"`): the `[[user]]` tables of the file, each a name and a password for clients, and whom
//! the upstream then sees. What clients give is `password…`, what the upstream is given is `upstream_password…`.
//! Where certificates name users, one may have no password.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::CertificateUser;
use super::error::{ConfigError, Problem};
use super::flags::UserSettings;
use super::password::{self, UpstreamPassword, read_password_file};
use super::raw::{Given, Layers};
use super::units::GIB;
use super::url::Secret;

/// The kinds of hash that are understood, as a PHC string names them.
const KINDS: [&str; 4] = ["argon2id", "argon2i", "argon2d", "scrypt"];
/// Memory that it may take to check one.
const MEMORY: u64 = GIB;
/// Memory that may be gone through to check one, pass by pass: some ten seconds of a processor.
const WORK: u64 = 8 * GIB;

/// A user that crema itself lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// As clients give it; `default` for those that give a password alone.
    pub name: String,
    /// What clients must give; `None` for who comes by a certificate alone.
    pub password: Option<Password>,
    /// User and password for the upstream; `None` for those of the upstream URL.
    pub upstream: Option<(String, UpstreamPassword)>,
}

/// How the password that clients must give is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Password {
    /// As it is.
    Plain(Secret),
    /// Its hash, by argon2 or scrypt, as a PHC string.
    Hash(Secret),
    /// The file that holds it, read at start and whenever it has changed.
    File(PathBuf),
}

impl Password {
    /// The password in a file, without the line's end behind it. Why there is none, without a word of what stands there.
    pub fn read_file(path: &Path) -> Result<Secret, String> {
        let text = read_password_file(path).map_err(|why| format!("{}: {why}", path.display()))?;
        let text = String::from_utf8(text).map_err(|_| format!("{}: not UTF-8", path.display()))?;
        let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
        if line.is_empty() || line.contains('\n') {
            return Err(format!("{}: not one line with a password", path.display()));
        }
        Ok(Secret::new(line))
    }
}

/// Reads all users. A name that an earlier one already has is refused.
pub(super) fn read_users(layers: &Layers, certificates: CertificateUser) -> Result<Vec<User>, ConfigError> {
    let mut users: Vec<User> = Vec::new();
    let refresh = password::read_refresh(layers)?;
    for settings in layers.users() {
        let refuse = |problem| layers.refuse_user(settings, problem);
        let user = read_user(settings, certificates, refresh).map_err(refuse)?;
        if users.iter().any(|earlier| earlier.name == user.name) {
            let problem =
                Problem::new(format!("there is a user `{}` already", user.name), "give each a name of its own");
            return Err(refuse(problem));
        }
        users.push(user);
    }
    Ok(users)
}

fn read_user(
    settings: &Spanned<UserSettings>,
    certificates: CertificateUser,
    refresh: Duration,
) -> Result<User, Problem> {
    let UserSettings { name, upstream_user, upstream_password, .. } = settings.get_ref();
    let Some(name) = text(name.as_ref()) else {
        return Err(Problem::new("a user lacks its name", "write name"));
    };
    if name.is_empty() {
        return Err(Problem::new("a user's name is empty", "write a name; `default` is who gives a password alone"));
    }
    let UserSettings { upstream_password_file, upstream_password_command, .. } = settings.get_ref();
    let (file, command) = (text(upstream_password_file.as_ref()), text(upstream_password_command.as_ref()));
    file.as_deref().map_or(Ok(()), password::check_file)?;
    command.as_deref().map_or(Ok(()), password::check_command)?;
    let changes = password::origin(file, command, refresh)?.map(UpstreamPassword::Changes);
    let fixed = text(upstream_password.as_ref()).map(|password| UpstreamPassword::Fixed(Secret::new(password)));
    if changes.is_some() && fixed.is_some() {
        let wrong = "a user's password for the upstream is given twice";
        return Err(Problem::new(wrong, "write one of upstream_password, its _file and its _command"));
    }
    let upstream = match (text(upstream_user.as_ref()), changes.or(fixed)) {
        (None, None) => None,
        (user, Some(password)) => Some((user.unwrap_or_else(|| "default".to_owned()), password)),
        (Some(_), None) => {
            return Err(Problem::new("upstream_user has no password", "write upstream_password too"));
        }
    };
    let password = read_password(settings.get_ref())?;
    if password.is_none() && certificates == CertificateUser::Off {
        let right =
            "write password, password_hash or password_file (or let certificates name users: tls_client_user = \"cn\")";
        return Err(Problem::new("a user lacks its password", right));
    }
    Ok(User { name, password, upstream })
}

fn text(given: Option<&Given>) -> Option<String> {
    given.map(|given| given.raw().to_owned())
}

/// What clients must give, which is said in one way, if at all.
fn read_password(settings: &UserSettings) -> Result<Option<Password>, Problem> {
    let UserSettings { password, password_hash, password_file, .. } = settings;
    match (text(password.as_ref()), text(password_hash.as_ref()), text(password_file.as_ref())) {
        (Some(password), None, None) if password.is_empty() => {
            Err(Problem::new("an empty password lets anybody in", "write a password"))
        }
        (Some(password), None, None) => Ok(Some(Password::Plain(Secret::new(password)))),
        (None, Some(hash), None) => check_hash(&hash).map(|()| Some(Password::Hash(Secret::new(hash)))),
        (None, None, Some(path)) => {
            let path = PathBuf::from(path);
            let read = Password::read_file(&path);
            read.map_err(|why| {
                Problem::new(format!("password_file {why}"), "give a file that holds the password alone")
            })?;
            Ok(Some(Password::File(path)))
        }
        (None, None, None) => Ok(None),
        _ => Err(Problem::new(
            "a user's password is given twice",
            "write one of password, password_hash and password_file",
        )),
    }
}

/// Whether a hash is one that can be checked, with no more memory and time than a machine has to spare.
fn check_hash(hash: &str) -> Result<(), Problem> {
    let wrong = |wrong: &str| Err(Problem::new(wrong, "write what `crema --hash-password` prints"));
    let parts: Vec<&str> = hash.split('$').collect();
    let kind = parts.get(1).copied().unwrap_or_default();
    if !hash.starts_with('$') || !KINDS.contains(&kind) {
        return wrong("password_hash is no hash by argon2 or scrypt");
    }
    let whole = password_auth::is_hash_obsolete(hash).is_ok() && parts.len() == if kind == "scrypt" { 5 } else { 6 };
    if !whole {
        return wrong("password_hash is not a whole PHC string");
    }
    let Some(cost) = Cost::of(kind, parts[parts.len() - 3]) else {
        return wrong("password_hash has parameters with which nothing can be checked");
    };
    if cost.memory.is_none_or(|memory| memory > MEMORY) {
        return wrong("to check password_hash would take more memory than 1GiB");
    }
    if cost.work.is_none_or(|work| work > WORK) {
        return wrong(
            "to check password_hash would take too long: more than 8 passes through 1GiB, or what is as much",
        );
    }
    Ok(())
}

/// What it takes to check a hash, in bytes; `None` for what is beyond all numbers.
struct Cost {
    memory: Option<u64>,
    /// The memory that is gone through, once for each pass.
    work: Option<u64>,
}

impl Cost {
    /// Of the parameters of a PHC string, as `m=19456,t=2,p=1`; `None` where these are none.
    fn of(kind: &str, params: &str) -> Option<Self> {
        let mut given: Vec<(&str, u64)> = Vec::new();
        for param in params.split(',') {
            let (name, value) = param.split_once('=')?;
            if given.iter().any(|(earlier, _)| *earlier == name) {
                return None;
            }
            given.push((name, value.parse().ok()?));
        }
        let number = |name: &str| given.iter().find(|(given, _)| *given == name).map(|(_, value)| *value);
        if kind == "scrypt" {
            return Self::of_scrypt(number("ln")?, number("r")?, number("p")?);
        }
        let (kib, passes, lanes) = (number("m")?, number("t")?, number("p")?);
        if passes == 0 || lanes == 0 || lanes.checked_mul(8).is_none_or(|least| kib < least) {
            return None;
        }
        let memory = kib.checked_mul(1024);
        Some(Self { memory, work: memory.and_then(|memory| memory.checked_mul(passes)) })
    }

    /// Its `p` parts are held side by side, and each goes through 2^`ln` blocks of its own (RFC 7914, section 6).
    fn of_scrypt(ln: u64, r: u64, p: u64) -> Option<Self> {
        if ln == 0 || r == 0 || p == 0 || r.checked_mul(p).is_none_or(|both| both >= 1 << 30) {
            return None;
        }
        let blocks = u32::try_from(ln).ok().and_then(|ln| 1_u64.checked_shl(ln));
        let block = r.checked_mul(128);
        let times = |count: Option<u64>| block.and_then(|block| block.checked_mul(count?));
        let memory = times(blocks.and_then(|blocks| blocks.checked_add(p)));
        Some(Self { memory, work: times(blocks).and_then(|bytes| bytes.checked_mul(p)) })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::LONGEST_PASSWORD;
    use super::*;

    #[test]
    fn only_hashes_that_can_be_checked_are_taken() {
        let salt_and_hash = "aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E";
        for good in ["argon2id$v=19$m=19456,t=2,p=1", "argon2i$v=19$m=8,t=1,p=1", "scrypt$ln=16,r=8,p=1"] {
            let hash = format!("${good}${salt_and_hash}");
            assert_eq!(check_hash(&hash), Ok(()), "{hash}");
        }
        let bad = [
            ("hunter2", "no hash by"),
            ("", "no hash by"),
            ("$2b$12$abcdefghijklmnopqrstuv", "no hash by"),
            ("$pbkdf2-sha256$i=4096,l=32$c2FsdA$xeR41ZKIyEGqUw22hFxMjZYok6ABzk4RpJY4c6qYE0o", "no hash by"),
            ("$argon2id$v=19$m=19456,t=2,p=1", "not a whole"),
            ("$argon2id$v=19$m=19456,t=2,p=1$aM15713r3Xsvxbi31lqr1Q", "not a whole"),
            ("$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$", "not a whole"),
        ];
        for (hash, reason) in bad {
            let problem = check_hash(hash).expect_err(hash).to_string();
            assert!(problem.contains(reason), "{hash}: {problem}");
        }
        let costly = [
            ("argon2id$v=19$m=1048577,t=2,p=1", "more memory"),
            ("argon2id$v=19$m=18446744073709551615,t=1,p=1", "more memory"),
            ("scrypt$ln=21,r=8,p=1", "more memory"),
            ("scrypt$ln=20,r=8,p=1", "more memory"),
            ("scrypt$ln=60,r=8,p=1", "more memory"),
            ("scrypt$ln=64,r=8,p=1", "more memory"),
            ("scrypt$ln=4294967297,r=8,p=1", "more memory"),
            ("scrypt$ln=10,r=8,p=67108863", "more memory"),
            ("scrypt$ln=10,r=8,p=1048576", "more memory"),
            ("scrypt$ln=16,r=8,p=1000", "too long"),
            ("argon2id$v=19$m=19456,t=4294967295,p=1", "too long"),
            ("argon2d$v=19$m=1048576,t=9,p=1", "too long"),
            ("scrypt$ln=16,r=144115188075855872,p=1", "nothing can be checked"),
            ("scrypt$ln=10,r=8,p=134217728", "nothing can be checked"),
            ("scrypt$ln=10,r=8,p=0", "nothing can be checked"),
            ("scrypt$ln=10,r=8", "nothing can be checked"),
            ("scrypt$ln=10,ln=40,r=8,p=1", "nothing can be checked"),
            ("argon2id$v=19$m=8,t=1,p=2", "nothing can be checked"),
            ("argon2id$v=19$m=19456,t=0,p=1", "nothing can be checked"),
        ];
        for (hash, reason) in costly {
            let problem = check_hash(&format!("${hash}${salt_and_hash}")).expect_err(hash).to_string();
            assert!(problem.contains(reason), "{hash}: {problem}");
        }
        for most in ["argon2id$v=19$m=1048576,t=8,p=4", "scrypt$ln=19,r=8,p=16"] {
            assert_eq!(check_hash(&format!("${most}${salt_and_hash}")), Ok(()), "{most}");
        }
    }

    #[test]
    fn a_file_holds_one_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("password");
        for (text, password) in [
            ("pw", Some("pw")),
            ("p w \n", Some("p w ")),
            ("pw\r\n", Some("pw")),
            ("", None),
            ("\n", None),
            ("a\nb\n", None),
        ] {
            fs::write(&path, text).expect("our own directory");
            let read = Password::read_file(&path);
            assert_eq!(read.as_ref().ok().map(Secret::expose), password, "{text:?}");
        }
        for (length, is_read) in [(LONGEST_PASSWORD, true), (LONGEST_PASSWORD + 1, false)] {
            fs::write(&path, vec![b'x'; length]).expect("our own directory");
            assert_eq!(Password::read_file(&path).is_ok(), is_read, "{length}");
        }
        fs::remove_file(&path).expect("our own directory");
        assert!(Password::read_file(&path).is_err());
        let problem = Password::read_file(directory.path()).expect_err("a directory");
        assert!(problem.ends_with("not a file"), "{problem}");
    }
}
