//! Tests that the schema and the parser agree about plans, and that the sample plans are right.

use std::path::Path;

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::{Value, json};
use toml::de::{DeTable, DeValue};

use super::super::schema::{SCHEMA, Table};
use super::super::{CONFIRM_TIMEOUT, Plan, Rollback, schema};
use super::{parse, plan, report};

/// The smallest plan. A key can be appended to its wave.
const LEAST: &str = "[[wave]]\ntargets = 'test.all'\n";

struct Validator {
    schemas: Schemas,
    plan: SchemaIndex,
}

impl Validator {
    fn new() -> Self {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource("plan.json", serde_json::from_str(&schema()).unwrap()).unwrap();
        let plan = compiler.compile("plan.json", &mut schemas).unwrap();
        Self { schemas, plan }
    }

    fn accepts(&self, text: &str) -> bool {
        let document = DeTable::parse(text).unwrap();
        self.schemas.validate(&table(document.get_ref()), self.plan).is_ok()
    }
}

fn table(table: &DeTable<'_>) -> Value {
    table.iter().map(|(key, value)| (key.get_ref().to_string(), json_of(value.get_ref()))).collect()
}

/// Converts TOML to JSON, as editors do to validate it.
fn json_of(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::Array(list) => list.iter().map(|item| json_of(item.get_ref())).collect(),
        DeValue::Boolean(value) => json!(value),
        DeValue::Datetime(value) => json!(value.to_string()),
        DeValue::Float(value) => json!(value.as_str().parse::<f64>().unwrap()),
        DeValue::Integer(value) => json!(i64::from_str_radix(value.as_str(), value.radix()).unwrap()),
        DeValue::String(value) => json!(value),
        DeValue::Table(value) => table(value),
    }
}

/// Returns a plan for each key in each of its tables, with the key set to `value`.
fn settings(value: &str) -> impl Iterator<Item = (&'static str, String)> {
    let top = Table::Top.keys().filter(|key| !matches!(*key, "defaults" | "wave"));
    let top = top.map(move |key| (key, format!("{key} = {value}\n{LEAST}")));
    let defaults = Table::Defaults.keys().map(move |key| (key, format!("[defaults]\n{key} = {value}\n{LEAST}")));
    let waves = Table::Wave.keys().map(move |key| match key {
        "targets" => (key, format!("[[wave]]\ntargets = {value}\n")),
        _ => (key, format!("{LEAST}{key} = {value}\n")),
    });
    top.chain(defaults).chain(waves)
}

#[test]
fn the_committed_schema_is_the_one_that_the_program_prints() {
    let committed = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("plans/plan.schema.json"));
    let hint = "write it anew: cargo run -- plan --schema > plans/plan.schema.json";
    assert!(committed.unwrap_or_default() == schema(), "plans/plan.schema.json is out of date; {hint}");
}

#[test]
fn the_samples_name_their_schema_and_fit_it() {
    let validator = Validator::new();
    let folder = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("plans")).unwrap();
    let samples = folder.map(|entry| entry.unwrap().path()).filter(|path| path.extension().unwrap() == "toml");
    let mut count = 0;
    for sample in samples {
        let text = std::fs::read_to_string(&sample).unwrap();
        assert_eq!(text.lines().next(), Some("#:schema ./plan.schema.json"), "{}", sample.display());
        assert!(validator.accepts(&text), "{}", sample.display());
        count += 1;
    }
    assert!(count >= 3, "only {count} samples");
}

#[test]
fn every_key_of_the_schema_is_read_by_the_parser() {
    // No key accepts a date, so an error shows that the parser reads the key.
    for (key, text) in settings("2026-11-23") {
        let mistakes = parse(&text).expect_err("a key that takes a date, or that nobody reads");
        let told: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
        assert!(told.len() == 1 && told[0].starts_with(&format!("`{key}` is not ")), "{text}: {told:?}");
    }
    for key in ["defaults", "wave"] {
        assert!(Table::Top.has(key) && parse(&format!("{key} = 1\n{LEAST}")).is_err(), "{key}");
    }
}

#[test]
fn the_defaults_of_the_schema_are_the_parsers() {
    for key in Table::Wave.keys() {
        let default = &SCHEMA["properties"]["wave"]["items"]["properties"][key]["default"];
        if !default.is_null() {
            // JSON and TOML have the same notation for these values.
            let mut plans = [plan(&format!("{LEAST}{key} = {default}\n")), plan(LEAST)];
            // The parser leaves these settings open for the command line, so their defaults are applied here.
            for plan in &mut plans {
                plan.set_default_rollback(Rollback::None);
                plan.set_default_confirm_timeout(CONFIRM_TIMEOUT);
            }
            assert_eq!(plans[0], plans[1], "{key}");
        }
    }
}

#[test]
fn the_schema_accepts_what_the_parser_accepts_and_refuses_what_it_refuses() {
    let validator = Validator::new();
    // The schema cannot know the aliases.
    let parses = |text: &str| Plan::parse(text, "x", &|_: &str| Some("deploy.prod.ns1".to_owned())).is_ok();
    #[rustfmt::skip]
    let values = [
        "0", "1", "-1", "1000", "1001", "1.5", "true", "''", "'x'", "'X y'", "'a-1'", "'.'", "'a..b'",
        "'0'", "'0s'", "'1s'", "'900 ms'", "'1h30m'", "'1h 30min'", "'1.5h'", "'2weeks'", "'10'", "'s'", "'1x'", "'0s0m'",
        "'0%'", "'1%'", "'100%'", "'101%'", "'050%'", "'%'", "'50'",
        "'auto'", "'switch'", "'dry-activate'", "'restart'", "'main'", "'v1.2'", "'-x'", "'github:o/r'", "'git+https://h/x'",
        "'test.all'", "'prod.role.dns'", "'fleet.ns1'", "'my-lab'", "'deploy.>'", "'test.*'",
        "[]", "['']", "['test.all']", "['test.a', 'prod.b']", "['./smoke.sh', '']", "['test.all', '']", "['test.all', 1]", "{}", "[1]",
    ];
    let mut looser = Vec::new();
    for value in values {
        for (key, text) in settings(value) {
            match (parses(&text), validator.accepts(&text)) {
                (true, false) => panic!("the schema refuses what the parser takes: {text}"),
                (false, true) => looser.push(format!("{key} = {value}")),
                _ => {}
            }
        }
    }
    looser.sort();
    looser.dedup();
    // Mistakes that involve two values, or that no readable pattern expresses.
    insta::assert_snapshot!(looser.join("\n"), @r"
    accept_timeout = '1.5h'
    accept_timeout = '1h 30min'
    accept_timeout = '1h30m'
    accept_timeout = '2weeks'
    confirm_timeout = '1.5h'
    confirm_timeout = '1h 30min'
    confirm_timeout = '1h30m'
    confirm_timeout = '1s'
    confirm_timeout = '2weeks'
    confirm_timeout = '900 ms'
    revision = 'a..b'
    timeout = '1s'
    timeout = '900 ms'
    ");
}

#[test]
fn both_refuse_what_is_missing_or_unknown() {
    let validator = Validator::new();
    assert!(validator.accepts(LEAST) && parse(LEAST).is_ok());
    for text in [
        "",
        "wave = []",
        "[[wave]]",
        "[wave]\ntargets = 'test.all'",
        &format!("{LEAST}unknown = 1"),
        &format!("unknown = 1\n{LEAST}"),
        &format!("{LEAST}[defaults]\ntargets = 'test.all'"),
        &format!("{LEAST}[defaults]\nname = 'x'"),
        &format!("timeout = '1m'\n{LEAST}"),
    ] {
        assert!(!validator.accepts(text) && parse(text).is_err(), "{text}");
    }
}

#[test]
fn every_sample_plan_is_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("plans");
    let mut names = Vec::new();
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "toml")) {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let plan = Plan::parse(&text, &name, &|_: &str| None)
            .unwrap_or_else(|mistakes| panic!("{}", report(&mistakes.named(&name, &text))));
        assert_eq!(plan.name, name);
        assert_eq!(plan.revision(None).unwrap().as_str(), "main");
        names.push(name);
    }
    names.sort();
    assert_eq!(names, ["demo", "minimal", "sunday"]);
}
