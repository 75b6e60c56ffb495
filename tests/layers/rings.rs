//! Which files need each other. A name that a module hands on (`pub use`) belongs to the file that defines it. The face of a
//! room, its `mod.rs`, is for all files in it, so what they take from there ties no ring.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::Source;

/// Files of which each needs each, directly or by way of others.
pub(crate) struct Ring {
    pub(crate) files: Vec<String>,
    /// From, to, and the first name by which.
    arrows: Vec<(String, String, String)>,
}

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "a ring of {}: {}", self.files.len(), self.files.join(", "))?;
        self.arrows.iter().try_for_each(|(from, to, name)| writeln!(f, "  {from} -> {to}: {name}"))
    }
}

/// All rings of two files or more.
pub(crate) fn rings(sources: &[Source]) -> Vec<Ring> {
    let house = House::new(sources);
    let arrows: Vec<BTreeMap<usize, String>> = (0..sources.len()).map(|file| house.arrows(file)).collect();
    let reach: Vec<BTreeSet<usize>> = (0..sources.len()).map(|file| reachable(&arrows, file)).collect();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for file in 0..sources.len() {
        let ring: Vec<usize> = reach[file]
            .iter()
            .copied()
            .filter(|other| *other != file && reach[*other].contains(&file))
            .chain([file])
            .collect();
        if ring.len() < 2 || !seen.insert(*ring.iter().min().expect("it has two or more")) {
            continue;
        }
        let name = |file: usize| sources[file].name.clone();
        let inside =
            |from: usize| arrows[from].iter().filter(|(to, _)| ring.contains(to)).map(move |(to, by)| (from, *to, by));
        found.push(Ring {
            files: ring.iter().map(|file| name(*file)).collect(),
            arrows: ring
                .iter()
                .flat_map(|from| inside(*from))
                .map(|(from, to, by)| (name(from), name(to), by.clone()))
                .collect(),
        });
    }
    found
}

fn reachable(arrows: &[BTreeMap<usize, String>], from: usize) -> BTreeSet<usize> {
    let (mut found, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(file) = open.pop() {
        open.extend(arrows[file].keys().copied().filter(|to| found.insert(*to)));
    }
    found
}

struct House<'a> {
    sources: &'a [Source],
    by_module: BTreeMap<Vec<String>, usize>,
    /// For each file the names that it hands on, and where each leads.
    handed_on: Vec<BTreeMap<String, Vec<String>>>,
}

impl<'a> House<'a> {
    fn new(sources: &'a [Source]) -> Self {
        let by_module = sources.iter().enumerate().map(|(file, source)| (source.module.clone(), file)).collect();
        let mut house = Self { sources, by_module, handed_on: Vec::new() };
        house.handed_on = (0..sources.len()).map(|file| house.hands_on(file)).collect();
        house
    }

    fn child(&self, file: usize, name: &str) -> Option<usize> {
        let module = [self.sources[file].module.as_slice(), &[name.to_owned()]].concat();
        self.by_module.get(&module).copied()
    }

    /// The trees of `use` that begin with a file below this one, and whether each is public.
    fn uses(&self, file: usize) -> Vec<(bool, Vec<String>)> {
        let tokens = &self.sources[file].tokens;
        let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
        let mut found = Vec::new();
        for at in (0..tokens.len()).filter(|&at| text(at) == "use") {
            let public = at > 0 && matches!(text(at - 1), "pub" | ")");
            let begin = if text(at + 1) == "self" { at + 3 } else { at + 1 };
            if self.child(file, text(begin)).is_none() {
                continue;
            }
            let mut ends = Vec::new();
            super::follow(tokens, begin, &mut Vec::new(), &mut ends);
            found.extend(ends.into_iter().map(|path| (public, path)));
        }
        found
    }

    fn hands_on(&self, file: usize) -> BTreeMap<String, Vec<String>> {
        let public = self.uses(file).into_iter().filter(|(public, _)| *public);
        public.filter_map(|(_, path)| Some((path.last()?.clone(), path))).collect()
    }

    /// The files that this one needs, each with a name by which.
    fn arrows(&self, file: usize) -> BTreeMap<usize, String> {
        let source = &self.sources[file];
        let mut found = BTreeMap::new();
        let mut note = |to: Option<usize>, name: &str| {
            let is_face = |to: usize| source.module.starts_with(&self.sources[to].module);
            if let Some(to) = to.filter(|to| !is_face(*to)) {
                found.entry(to).or_insert_with(|| name.to_owned());
            }
        };
        for (_, inline, path) in source.paths() {
            let ups = path.iter().take_while(|part| *part == "super").count();
            let module = match path[0].as_str() {
                "crate" => path[1..].to_vec(),
                "super" if ups > inline => {
                    let above = source.module.len().saturating_sub(ups - inline);
                    [&source.module[..above], &path[ups..]].concat()
                }
                _ => continue,
            };
            note(self.resolve(&module), &path[ups.max(1)..].join("::"));
        }
        for (public, path) in self.uses(file) {
            if !public {
                note(self.resolve(&[source.module.as_slice(), &path].concat()), &path.join("::"));
            }
        }
        let words = source.tokens.iter().map(|token| token.text.as_str());
        let mut counts = BTreeMap::<&str, usize>::new();
        words.for_each(|word| *counts.entry(word).or_default() += 1);
        for (name, path) in &self.handed_on[file] {
            if counts.get(name.as_str()).is_some_and(|count| *count > 1) {
                note(self.resolve(&[source.module.as_slice(), path].concat()), name);
            }
        }
        for pair in source.tokens.windows(2).filter(|pair| pair[1].text == "::") {
            if counts.get(pair[0].text.as_str()).is_some_and(|count| *count > 2) {
                note(self.child(file, &pair[0].text), &pair[0].text);
            }
        }
        found
    }

    /// The file that defines what this path names.
    fn resolve(&self, path: &[String]) -> Option<usize> {
        let length = (0..=path.len()).rev().find(|length| self.by_module.contains_key(&path[..*length]))?;
        let file = self.by_module[&path[..length]];
        let handed_on = path.get(length).and_then(|name| self.handed_on.get(file)?.get(name));
        match handed_on {
            Some(onward) => self.resolve(&[&path[..length], onward].concat()),
            None => Some(file),
        }
    }
}
