//! Parses the permissions of each key in a nats-server's configuration.

use super::{FileError, Operation, Permissions};

/// How deep blocks and included files may be nested.
const MAX_DEPTH: usize = 32;

/// The pattern of an unlimited permission.
const ANYTHING: &str = ">";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUser {
    pub key: String,
    pub permissions: Permissions,
}

/// Reads an included file by its name in the including one.
type Include<'a> = &'a dyn Fn(&str) -> Result<String, String>;

#[derive(Debug, Clone)]
enum ConfigValue {
    Text(String),
    List(Vec<ConfigValue>),
    Block(Block),
}

type Block = Vec<(String, ConfigValue)>;

/// Returns the users with an NKey, in the order of the file.
pub fn server_users(text: &str, include: Include<'_>) -> Result<Vec<ServerUser>, FileError> {
    let mut reader = Reader { rest: text, line: 1, depth: 0, include, variables: Vec::new() };
    let block = reader.block(None)?;
    let mut users = Vec::new();
    find_users(&block, &mut users);
    Ok(users)
}

/// Collects the users in this block and its inner blocks: they are in `authorization` or in an account.
fn find_users(block: &Block, found: &mut Vec<ServerUser>) {
    let defaults = get(block, &["default_permissions"]);
    for (name, value) in block {
        match value {
            ConfigValue::List(users) if name.eq_ignore_ascii_case("users") => {
                found.extend(users.iter().filter_map(|user| read_user(user, defaults)));
            }
            ConfigValue::Block(inner) => find_users(inner, found),
            ConfigValue::List(_) | ConfigValue::Text(_) => {}
        }
    }
}

fn read_user(user: &ConfigValue, defaults: Option<&ConfigValue>) -> Option<ServerUser> {
    let ConfigValue::Block(user) = user else { return None };
    let ConfigValue::Text(key) = get(user, &["nkey"])? else { return None };
    let block = match get(user, &["permissions", "permission"]).or(defaults) {
        Some(ConfigValue::Block(block)) => block.clone(),
        _ => Block::new(),
    };
    let mut permissions = Permissions::default();
    for (operation, names) in
        [(Operation::Publish, ["publish", "pub", "import"]), (Operation::Subscribe, ["subscribe", "sub", "export"])]
    {
        let (allowed, denied) = subjects(get(&block, &names));
        permissions.allowed.extend(allowed.into_iter().map(|subject| (operation, subject)));
        permissions.denied.extend(denied.into_iter().map(|subject| (operation, subject)));
    }
    Some(ServerUser { key: key.clone(), permissions })
}

/// Returns the allowed subjects and the denied ones. Without a setting, everything is allowed.
fn subjects(value: Option<&ConfigValue>) -> (Vec<String>, Vec<String>) {
    let (allowed, denied) = match value {
        Some(ConfigValue::Block(block)) => (get(block, &["allow"]), get(block, &["deny"])),
        value => (value, None),
    };
    (allowed.map_or_else(|| vec![ANYTHING.to_owned()], texts), denied.map(texts).unwrap_or_default())
}

fn texts(value: &ConfigValue) -> Vec<String> {
    match value {
        ConfigValue::Text(text) => vec![text.clone()],
        ConfigValue::List(values) => values.iter().flat_map(texts).collect(),
        ConfigValue::Block(_) => Vec::new(),
    }
}

/// Returns the value of the last entry with one of these names, which overrides earlier ones.
fn get<'a>(block: &'a Block, names: &[&str]) -> Option<&'a ConfigValue> {
    let is_meant = |name: &str| names.iter().any(|meant| meant.eq_ignore_ascii_case(name));
    block.iter().rev().find(|(name, _)| is_meant(name)).map(|(_, value)| value)
}

/// A parser of the server's format: JSON with most punctuation optional.
struct Reader<'a> {
    rest: &'a str,
    line: usize,
    depth: usize,
    include: Include<'a>,
    /// The definitions so far, which `$name` refers to.
    variables: Block,
}

impl Reader<'_> {
    /// Parses the names and values up to the end of the block or text.
    fn block(&mut self, end: Option<char>) -> Result<Block, FileError> {
        self.deeper()?;
        // A text in JSON has braces around all of it.
        let end = if end.is_none() && self.takes('{') { Some('}') } else { end };
        let mut block = Block::new();
        while !self.ends(end)? {
            let name = self.word(":={")?;
            if name == "include" {
                let file = self.word("")?;
                block.extend(self.included(&file)?);
                continue;
            }
            let _ = self.takes(':') || self.takes('=');
            let value = self.value()?;
            self.variables.push((name.clone(), value.clone()));
            block.push((name, value));
        }
        self.depth -= 1;
        Ok(block)
    }

    fn deeper(&mut self) -> Result<(), FileError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(self.error("blocks or files are too deep within each other")) } else { Ok(()) }
    }

    fn included(&mut self, file: &str) -> Result<Block, FileError> {
        let text = (self.include)(file).map_err(|why| self.error(&format!("cannot include {file:?}: {why}")))?;
        let variables = std::mem::take(&mut self.variables);
        let mut reader = Reader { rest: &text, line: 1, depth: self.depth, include: self.include, variables };
        let block = reader.block(None);
        self.variables = reader.variables;
        block.map_err(|error| self.error(&format!("{file}, {error}")))
    }

    fn value(&mut self) -> Result<ConfigValue, FileError> {
        if self.takes('{') {
            return self.block(Some('}')).map(ConfigValue::Block);
        }
        if self.takes('[') {
            self.deeper()?;
            let mut values = Vec::new();
            while !self.ends(Some(']'))? {
                values.push(self.value()?);
            }
            self.depth -= 1;
            return Ok(ConfigValue::List(values));
        }
        let text = self.word("")?;
        let variable = text.strip_prefix('$').and_then(|name| get(&self.variables, &[name]));
        Ok(variable.cloned().unwrap_or(ConfigValue::Text(text)))
    }

    /// Parses a word with or without quotes. Without, it also ends before any of `ends`.
    fn word(&mut self, ends: &str) -> Result<String, FileError> {
        self.skip_space();
        let quote = self.rest.chars().next().filter(|c| matches!(c, '"' | '\''));
        let Some(quote) = quote else {
            let is_end = |c: char| c.is_whitespace() || ",;[]}".contains(c) || ends.contains(c);
            let (word, rest) = self.rest.split_at(self.rest.find(is_end).unwrap_or(self.rest.len()));
            if word.is_empty() {
                return Err(self.error("a name or a value is missing"));
            }
            self.rest = rest;
            return Ok(word.to_owned());
        };
        self.advance(quote.len_utf8());
        let mut word = String::new();
        while let Some(mut c) = self.next() {
            if c == quote {
                return Ok(word);
            }
            if c == '\\' && quote == '"' {
                c = self.next().unwrap_or_default();
            }
            word.push(c);
        }
        Err(self.error("a quote has no end"))
    }

    /// Consumes the end of the block or list, if it is here, and returns whether it was.
    fn ends(&mut self, end: Option<char>) -> Result<bool, FileError> {
        self.skip_space();
        match (end, self.rest.is_empty()) {
            (None, is_over) => Ok(is_over),
            (Some(end), true) => Err(self.error(&format!("there is no {end:?} for what was opened"))),
            (Some(end), false) => Ok(self.takes(end)),
        }
    }

    /// Consumes a character, if it comes next, and returns whether it did.
    fn takes(&mut self, c: char) -> bool {
        self.skip_space();
        self.rest.starts_with(c) && self.next().is_some()
    }

    /// Skips white space, comments and separators.
    fn skip_space(&mut self) {
        while let Some(c) = self.rest.chars().next() {
            if c.is_whitespace() || c == ',' || c == ';' {
                self.advance(c.len_utf8());
            } else if c == '#' || self.rest.starts_with("//") {
                self.advance(self.rest.find('\n').unwrap_or(self.rest.len()));
            } else {
                break;
            }
        }
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.advance(c.len_utf8());
        Some(c)
    }

    fn advance(&mut self, bytes: usize) {
        let (passed, rest) = self.rest.split_at(bytes);
        self.line += passed.matches('\n').count();
        self.rest = rest;
    }

    fn error(&self, why: &str) -> FileError {
        FileError { line: self.line, why: why.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::nats_config::{Principal, Strictness, User, authorization};

    fn read(text: &str) -> Result<Vec<ServerUser>, FileError> {
        server_users(text, &|name| match name {
            "users.conf" => Ok("users = [{ nkey: UIN }]".to_owned()),
            "itself" => Ok("include itself".to_owned()),
            _ => Err("no such file".to_owned()),
        })
    }

    fn lists(text: &str) -> String {
        let lines =
            read(text).unwrap().into_iter().map(|ServerUser { key, permissions: Permissions { allowed, denied } }| {
                let of = |list, operation| crate::nats_config::subjects(list, operation).collect::<Vec<_>>();
                let of = |operation| format!("{:?} -{:?}", of(&allowed, operation), of(&denied, operation));
                format!("{key} {} {}", of(Operation::Publish), of(Operation::Subscribe))
            });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_is_printed_is_read_as_it_is_meant() {
        let key = || nkeys::KeyPair::new_user().public_key().parse().unwrap();
        let holders = [Principal::Listener("prod.ns1.dns".parse().unwrap()), Principal::TestDeployer, Principal::Admin];
        let users = holders.map(|holder| User { holder, key: key() });
        for strictness in [Strictness::Strict, Strictness::Compatible] {
            let text = format!("port: 4222\nmax_payload = 256K\n{}", authorization(&users, strictness));
            let expected = users
                .iter()
                .map(|user| ServerUser { key: user.key.to_string(), permissions: user.holder.permissions(strictness) });
            assert_eq!(read(&text).unwrap(), expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn each_way_to_write_it_is_understood() {
        let json =
            r#"{"authorization": {"users": [{"nkey": "UA", "permissions": {"publish": ["a"], "subscribe": ["b"]}}]}}"#;
        insta::assert_snapshot!(lists(json), @r#"UA ["a"] -[] ["b"] -[]"#);
        let accounts = "
            // both of these
            anything { publish = \"a.>\"; sub: { deny: ['b', \"c\\\"\"] } }
            server_name: x, listen: 0.0.0.0:4222
            accounts { HOME: { jetstream: enabled, users: [
                { nkey: UA, permissions: $anything }   # a comment
                { user: ops, password: $2a$11$x }
                { nkey: UB }
            ] } }";
        insta::assert_snapshot!(lists(accounts), @r#"
        UA ["a.>"] -[] [">"] -["b", "c\""]
        UB [">"] -[] [">"] -[]
        "#);
        let defaults = "authorization { default_permissions = { publish: [] }\n include \"users.conf\" }";
        insta::assert_snapshot!(lists(defaults), @r#"UIN [] -[] [">"] -[]"#);
    }

    #[test]
    fn what_is_no_configuration_is_told_by_its_line() {
        let told = |text: &str| read(text).unwrap_err().to_string();
        insta::assert_snapshot!(told("port: 4222\nauthorization {\n users = ["), @"line 3: there is no ']' for what was opened");
        insta::assert_snapshot!(told("\nname: \"x"), @"line 2: a quote has no end");
        insta::assert_snapshot!(told("a {\n ] }"), @"line 2: a name or a value is missing");
        insta::assert_snapshot!(told("include nowhere"), @r#"line 1: cannot include "nowhere": no such file"#);
        assert!(told("include itself").ends_with("blocks or files are too deep within each other"));
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "([a-z$\"'\\\\{}\\[\\]#/:=,;\\n ]|include |é){0,60}") {
            let _ = read(&text);
        }
    }
}
