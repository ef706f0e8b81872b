//! The committed schemas are those of the types.

#[test]
fn committed_schemas_are_those_of_the_types() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    let files = sluice_crds::generate::files().unwrap();
    for (name, expected) in &files {
        let committed = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        assert!(committed == *expected, "{name} is out of date: run `cargo run -p sluice-crds -- crds/yaml`");
    }
    let count = std::fs::read_dir(&dir).unwrap().count();
    assert_eq!(count, files.len(), "a file in crds/yaml belongs to no type: delete it");
}

#[test]
fn every_rule_says_what_to_write_instead() {
    let crds = sluice_crds::generate::definitions();
    let mut rules = 0;
    for crd in &crds {
        let text = serde_json::to_string(crd).unwrap();
        let count = text.matches("\"rule\":").count();
        assert_eq!(count, text.matches("\"message\":\"").count(), "a rule of {:?} has no message", crd.metadata.name);
        rules += count;
    }
    assert!(rules >= 8, "only {rules} rules");
}

#[test]
fn no_number_is_let_in_that_its_type_cannot_hold() {
    let crds = serde_json::to_value(sluice_crds::generate::definitions()).unwrap();
    let (mut numbers, mut todo) = (0, vec![&crds]);
    while let Some(value) = todo.pop() {
        if value["type"] == "integer" && value["format"].is_string() {
            assert!(value["minimum"].is_number() && value["maximum"].is_number(), "no limits: {value}");
            numbers += 1;
        }
        todo.extend(value.as_array().into_iter().flatten());
        todo.extend(value.as_object().into_iter().flat_map(|fields| fields.values()));
    }
    assert!(numbers >= 20, "only {numbers} numbers");
}
