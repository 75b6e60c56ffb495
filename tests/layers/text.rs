//! A source file read as text, in a small way of its own: words and signs, without comments, strings and test code.

#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// Collects into `ends` every path of the tree that begins at `at`, and returns where the tree ends.
pub(crate) fn follow(tokens: &[Token], mut at: usize, path: &mut Vec<String>, ends: &mut Vec<Vec<String>>) -> usize {
    let length = path.len();
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    loop {
        if text(at) == "{" {
            at += 1;
            while !matches!(text(at), "}" | "") {
                at = follow(tokens, at, path, ends);
                at += usize::from(text(at) == ",");
            }
            at += 1;
            break;
        }
        if text(at) != "self" {
            path.push(text(at).to_owned());
        }
        at += 1;
        if text(at) != "::" {
            ends.push(path.clone());
            if text(at) == "as" {
                at += 2;
            }
            break;
        }
        at += 1;
        if text(at) == "<" {
            ends.push(path.clone()); // generic arguments: the path has named its module long before
            break;
        }
    }
    path.truncate(length);
    at
}

/// Words, `::` and single signs, without comments and without the insides of strings.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let length = match rest[0] {
            b'/' if rest.starts_with(b"//") => rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()),
            b'/' if rest.starts_with(b"/*") => block_comment(rest),
            b'"' => quoted(rest, b'"'),
            b'r' if raw_string(rest).is_some() => raw_string(rest).expect("it was just found"),
            b'b' if rest.starts_with(b"br") && raw_string(&rest[1..]).is_some() => {
                1 + raw_string(&rest[1..]).expect("it was just found")
            }
            b'b' | b'c' if rest.get(1) == Some(&b'"') => 1 + quoted(&rest[1..], b'"'),
            b'b' if rest.get(1) == Some(&b'\'') => 1 + quoted(&rest[1..], b'\''),
            b'\'' if is_character(text, at) => quoted(rest, b'\''),
            byte if is_word(byte) => {
                let length = rest.iter().position(|&byte| !is_word(byte)).unwrap_or(rest.len());
                found.push(Token { line, text: text[at..at + length].to_owned() });
                length
            }
            b':' if rest.starts_with(b"::") => {
                found.push(Token { line, text: "::".to_owned() });
                2
            }
            byte => {
                if !byte.is_ascii_whitespace() {
                    found.push(Token { line, text: char::from(byte).to_string() });
                }
                1
            }
        };
        let length = length.min(rest.len());
        line += rest[..length].split(|&byte| byte == b'\n').count() - 1;
        at += length;
    }
    found
}

/// A quotation mark begins a character, not a lifetime, if it is escaped or closed after one.
fn is_character(text: &str, at: usize) -> bool {
    let mut following = text[at + 1..].chars();
    match following.next() {
        Some('\\') => true,
        Some(_) => following.next() == Some('\''),
        None => false,
    }
}

fn quoted(rest: &[u8], mark: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != mark {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

fn raw_string(rest: &[u8]) -> Option<usize> {
    let signs = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
    if rest.first() != Some(&b'r') || rest.get(1 + signs) != Some(&b'"') {
        return None;
    }
    let end = [b"\"".as_slice(), &b"#".repeat(signs)].concat();
    let body = 2 + signs;
    let length = rest[body..].windows(end.len()).position(|window| window == end);
    Some(length.map_or(rest.len(), |length| body + length + end.len()))
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut at, mut depth) = (2, 1);
    while at < rest.len() && depth > 0 {
        match &rest[at..rest.len().min(at + 2)] {
            b"/*" => (at, depth) = (at + 2, depth + 1),
            b"*/" => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
    }
    at
}

/// Takes out the items marked `#[cfg(test)]`, and says how many lines they took up.
pub(crate) fn without_tests(all: &[Token]) -> (Vec<Token>, usize) {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let marked = |at: usize| MARK.iter().enumerate().all(|(n, text)| all.get(at + n).is_some_and(|t| t.text == *text));
    let (mut kept, mut lines, mut at) = (Vec::new(), 0, 0);
    while at < all.len() {
        if marked(at) {
            let end = end_of_item(all, at + MARK.len());
            lines += all[end - 1].line - all[at].line + 1;
            at = end;
        } else {
            kept.push(all[at].clone());
            at += 1;
        }
    }
    (kept, lines)
}

/// Past the item that begins at `at`: its semicolon, or the brace that closes its body.
pub(crate) fn end_of_item(tokens: &[Token], mut at: usize) -> usize {
    let mut is_use = false;
    let mut open = 0_usize;
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            "use" if open == 0 && tokens.get(at + 1).is_some_and(|next| next.text != "<") => is_use = true,
            "{" | "(" | "[" => open += 1,
            closing @ ("}" | ")" | "]") => {
                open = open.saturating_sub(1);
                if open == 0 && closing == "}" && !is_use {
                    return at + 1;
                }
            }
            ";" if open == 0 => return at + 1,
            _ => {}
        }
        at += 1;
    }
    at
}
