use super::*;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct File {
    name: Option<Setting>,
    max_size: Option<Setting>,
    wait: Option<Setting>,
}

const VARIABLES: &[Variable] = &[Variable { name: "P_NAME", key: "name", meaning: "a name" }];

fn slot<'s>(file: &'s mut File, key: &str) -> Option<&'s mut Option<Setting>> {
    (key == "name").then_some(&mut file.name)
}

fn check() -> Check<'static> {
    Check::new("a.yaml", VARIABLES)
}

#[test]
fn a_value_is_read_and_a_variable_wins() {
    let mut file: File = parse("name: one\nmaxSize: 2MiB\n", "a.yaml").unwrap();
    let size = check().size(&file.max_size, "maxSize", (0, 1 << 30)).unwrap();
    assert_eq!(size, Some(2 << 20));
    let env = [("P_NAME".to_owned(), "two".to_owned())];
    overlay(&mut file, VARIABLES, &env, slot);
    let name = check().needed(&file.name, "name", "a name", |t| Some(t.to_owned()));
    assert_eq!(name.unwrap(), "two");
    let refused = check().needed(&file.name, "name", "a number", |t| t.parse::<u8>().ok());
    let text = refused.unwrap_err().to_string();
    assert_eq!(text, "environment variable P_NAME: name: \"two\" is not accepted; use a number");
}

#[test]
fn every_mistake_has_its_place() {
    let unknown = parse::<File>("name: a\nnmae: b\n", "a.yaml").err().unwrap().to_string();
    assert!(unknown.starts_with("a.yaml:2:1: ") && unknown.contains("nmae"), "{unknown}");
    let twice = parse::<File>("name: a\nname: b\n", "a.yaml").err().unwrap().to_string();
    assert!(twice.starts_with("a.yaml:2:1: "), "{twice}");
    let broken = parse::<File>("name: [a\n", "a.yaml").err().unwrap().to_string();
    assert!(broken.starts_with("a.yaml:"), "{broken}");
    let file: File = parse("\n\nwait:   5 hours\n", "a.yaml").unwrap();
    let wait = check().duration(&file.wait, "wait", (1, 60)).unwrap_err().to_string();
    assert_eq!(
        wait,
        "a.yaml:3:9: wait: \"5 hours\" is not accepted; \
         use a duration from 1s to 1m, such as 90s or 1h"
    );
    let file: File = parse("maxSize: 2GiB\n", "a.yaml").unwrap();
    let size = check().size(&file.max_size, "maxSize", (8 << 10, 1 << 30)).unwrap_err().to_string();
    assert!(size.contains("use a size from 8KiB to 1GiB, such as"), "{size}");
    let missing = check().needed(&file.name, "name", "a name", |t| Some(t.to_owned()));
    let missing = missing.unwrap_err().to_string();
    assert_eq!(missing, "a.yaml: name is not set; use a name (or the environment variable P_NAME)");
    let empty: File = parse("# nothing\n---\n", "a.yaml").unwrap_or_default();
    assert!(empty.name.is_none());
}
