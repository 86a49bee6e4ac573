//! Records of a typed collection: what a client's body makes of one, with modifiers, and the record as clients see it.

use serde_json::{Map, Value};

use super::auth::{EMAIL, EMAIL_VISIBILITY, PASSWORD, TOKEN_KEY};
use super::date::DateText;
use super::definition::Definition;
use super::field::{Field, ID, Kind};
use super::generate::generate;
use super::value::words;
use super::violation::{Violation, Violations};

impl Definition {
    /// The members of a record after a client's body: of a new one, or of one that had the members `before`. Unknown members are ignored, hidden
    /// fields are set by superusers only. A new password is as the client sent it: the caller hashes it.
    ///
    /// Modifiers count on top of a plain value: `n+`, `n-` of numbers; `f+` (append), `+f` (prepend) and `f-` (remove) of selects, relations and
    /// files; `f:autogenerate` of texts, whose value is a prefix. The caller holds the record's lock, so that no increment is lost.
    ///
    /// # Errors
    ///
    /// The violations of all fields. Uniqueness, related records and files are for the store to check.
    pub fn apply(
        &self,
        before: Option<&Map<String, Value>>,
        body: &Map<String, Value>,
        is_superuser: bool,
        now: &DateText,
    ) -> Result<Map<String, Value>, Violations> {
        let (mut members, mut violations) = (Map::new(), Violations::default());
        for field in &self.fields {
            let may_set = is_superuser || !field.hidden || field.is_secret();
            let value = match &field.kind {
                Kind::Autodate { on_create, on_update } => {
                    let sets = if before.is_none() { *on_create } else { *on_update };
                    if sets { Ok(now.as_str().into()) } else { Ok(old(field, before)) }
                }
                // It is a hash by now, which is not checked again.
                Kind::Password { .. } if before.is_some() && !body.contains_key(&field.name) => {
                    members.insert(field.name.clone(), old(field, before));
                    continue;
                }
                _ if !may_set => Ok(made(field, old(field, before), before.is_none())),
                _ => field.applied(old(field, before), body, before.is_none()),
            };
            let checked = value.and_then(|value| {
                if field.name == ID && before.is_some_and(|before| before.get(ID) != Some(&value)) {
                    return Err(Violation::new("pk_change", "The record primary key cannot be changed."));
                }
                field.validate(&value)?;
                Ok(value)
            });
            match checked {
                Ok(value) => drop(members.insert(field.name.clone(), value)),
                Err(violation) => violations.add(&field.name, violation),
            }
        }
        violations.into_result().map(|()| members)
    }

    /// A client's body as rules read it: what a modifier makes of a field is the field's value, so that a rule over `role` also holds for `role+`.
    /// `None`: the body has no modifiers.
    pub fn without_modifiers(
        &self,
        before: Option<&Map<String, Value>>,
        body: &Map<String, Value>,
    ) -> Option<Map<String, Value>> {
        let mut plain: Option<Map<String, Value>> = None;
        if !has_modifiers(body) {
            return None;
        }
        for field in &self.fields {
            let name = &field.name;
            let modified = ["{}+", "+{}", "{}-", "{}:autogenerate"].map(|form| form.replace("{}", name));
            let Some(sent) = modified.iter().find_map(|name| body.get(name)) else { continue };
            let value = field.applied(old(field, before), body, before.is_none());
            let plain = plain.get_or_insert_with(|| body.clone());
            // A value that the field refuses is set all the same.
            plain.insert(name.clone(), value.unwrap_or_else(|_| sent.clone()));
            for name in &modified {
                plain.remove(name);
            }
        }
        plain
    }

    /// A record as clients see it: fields that it lacks have their zero, secret ones are left out, hidden ones are for superusers, and so is an email
    /// that the record does not make visible, unless the client `sees_email`.
    pub fn shown(
        &self,
        name: &str,
        members: &Map<String, Value>,
        is_superuser: bool,
        sees_email: bool,
    ) -> Map<String, Value> {
        let mut shown = Map::new();
        let is_visible = is_superuser || sees_email || members.get(EMAIL_VISIBILITY) == Some(&true.into());
        for field in &self.fields {
            if field.hidden && !is_superuser {
                continue;
            }
            let is_kept = match field.name.as_str() {
                PASSWORD | TOKEN_KEY => true,
                EMAIL => !is_visible,
                _ => false,
            };
            if self.auth.is_some() && is_kept {
                continue;
            }
            let value = match members.get(&field.name) {
                _ if field.is_secret() => "".into(),
                Some(value) => value.clone(),
                None => field.zero(),
            };
            shown.insert(field.name.clone(), value);
        }
        shown.insert("collectionId".into(), self.id.as_str().into());
        shown.insert("collectionName".into(), name.into());
        shown
    }
}

/// Whether a body may have a modifier: most have none, and the names of all modifiers of all fields need not be made.
fn has_modifiers(body: &Map<String, Value>) -> bool {
    body.keys()
        .any(|name| name.starts_with('+') || name.ends_with(['+', '-']) || name.ends_with(":autogenerate"))
}

fn old(field: &Field, before: Option<&Map<String, Value>>) -> Value {
    before.and_then(|before| before.get(&field.name).cloned()).unwrap_or_else(|| field.zero())
}

/// A value that a new record has without the client's.
fn made(field: &Field, value: Value, is_new: bool) -> Value {
    match &field.kind {
        Kind::Text { autogenerate_pattern, .. }
            if is_new && !autogenerate_pattern.is_empty() && value == field.zero() =>
        {
            generate(autogenerate_pattern).unwrap_or_default().into()
        }
        _ => value,
    }
}

impl Field {
    /// The value after a client's body.
    fn applied(&self, old: Value, body: &Map<String, Value>, is_new: bool) -> Result<Value, Violation> {
        let name = &self.name;
        let mut value = match body.get(name) {
            Some(sent) => self.coerce(sent)?,
            None => old,
        };
        let sent = |name: String| body.get(&name);
        match &self.kind {
            Kind::Number { .. } => {
                for (modifier, sign) in [("+", 1.0), ("-", -1.0)] {
                    let Some(sent) = sent(format!("{name}{modifier}")) else { continue };
                    let operand = self.coerce(sent)?.as_f64().unwrap_or_default();
                    let number = value.as_f64().unwrap_or_default() + sign * operand;
                    value = self.coerce(&number.into())?;
                }
            }
            Kind::Select { .. } | Kind::Relation { .. } | Kind::File { .. } => {
                let mut chosen = words(&value);
                if let Some(sent) = sent(format!("{name}+")) {
                    chosen.extend(words(sent));
                }
                if let Some(sent) = sent(format!("+{name}")) {
                    chosen.splice(0..0, words(sent));
                }
                if let Some(sent) = sent(format!("{name}-")) {
                    let removed = words(sent);
                    chosen.retain(|word| !removed.contains(word));
                }
                value = self.coerce(&chosen.into())?;
            }
            Kind::Text { autogenerate_pattern, .. } => {
                if let Some(sent) = sent(format!("{name}:autogenerate")) {
                    let prefix = self.coerce(sent)?;
                    let prefix = prefix.as_str().unwrap_or_default();
                    value = match autogenerate_pattern.as_str() {
                        "" => prefix.into(),
                        pattern => format!("{prefix}{}", generate(pattern).unwrap_or_default()).into(),
                    };
                }
            }
            _ => {}
        }
        Ok(made(self, value, is_new))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn posts() -> Definition {
        let body = json!({"name": "posts", "fields": [
            {"name": "title", "type": "text", "min": 2},
            {"name": "n", "type": "number"},
            {"name": "ss", "type": "select", "values": ["a", "b", "c"], "maxSelect": 2},
            {"name": "s", "type": "select", "values": ["a", "b"], "maxSelect": 1},
            {"name": "code", "type": "text", "autogeneratePattern": "[a-z]{8}"},
            {"name": "hid", "type": "text", "hidden": true},
            {"name": "pw", "type": "password"},
            {"name": "created", "type": "autodate", "onCreate": true},
            {"name": "updated", "type": "autodate", "onCreate": true, "onUpdate": true},
        ]});
        Definition::create(&body).unwrap().1
    }

    fn now(text: &str) -> DateText {
        DateText::parse(text).unwrap()
    }

    fn apply(before: Option<&Value>, body: &Value) -> Result<Value, Value> {
        let before = before.map(|before| before.as_object().unwrap());
        let applied = posts().apply(before, body.as_object().unwrap(), false, &now("2026-11-30"));
        applied.map(Value::from).map_err(|violations| serde_json::to_value(violations).unwrap())
    }

    #[test]
    fn a_new_record_has_zeros_dates_and_made_texts() {
        let record = apply(None, &json!({"created": "2001-01-01", "zzz": 1, "hid": "x", "n": "12"})).unwrap();
        assert_eq!(record["id"].as_str().unwrap().len(), 15);
        assert_eq!(record["code"].as_str().unwrap().len(), 8);
        assert_eq!((&record["n"], &record["ss"], &record["hid"]), (&json!(12), &json!([]), &json!("")));
        assert_eq!(record["created"], "2026-11-30 00:00:00.000Z");
        assert!(record.get("zzz").is_none());
        let shown = posts().shown("posts", record.as_object().unwrap(), false, false);
        assert_eq!(
            (&shown["collectionName"], &shown["pw"], shown.get("hid")),
            (&json!("posts"), &json!(""), None)
        );
        assert!(posts().shown("posts", record.as_object().unwrap(), true, false).contains_key("hid"));
    }

    #[test]
    fn a_change_keeps_the_other_members_and_the_id() {
        let record = apply(None, &json!({"title": "ab", "n": 5})).unwrap();
        let before = record.as_object().unwrap();
        let body = json!({"n": 6});
        let changed =
            posts().apply(Some(before), body.as_object().unwrap(), false, &now("2027-01-01")).unwrap();
        assert_eq!(
            (&changed["title"], &changed["n"], &changed["id"]),
            (&json!("ab"), &json!(6), &record["id"])
        );
        assert_eq!(
            (&changed["created"], &changed["updated"]),
            (&record["created"], &json!("2027-01-01 00:00:00.000Z"))
        );
        let refusal = apply(Some(&record), &json!({"id": "bbbbbbbbbbbbbbb", "title": "x"})).unwrap_err();
        assert_eq!(refusal["id"]["code"], "validation_pk_change");
        assert_eq!(refusal["title"]["params"], json!({"min": 2}));
    }

    #[test]
    fn modifiers_count_on_top_of_plain_values() {
        let record = apply(None, &json!({"n": 5, "ss": ["a"], "s": "a"})).unwrap();
        let after = |body: Value| apply(Some(&record), &body).unwrap();
        for (body, member, expected) in [
            (json!({"n+": 3}), "n", json!(8)),
            (json!({"n-": "1"}), "n", json!(4)),
            (json!({"n+": "x"}), "n", json!(5)),
            (json!({"n": 2, "n+": 3}), "n", json!(5)),
            (json!({"ss+": "b"}), "ss", json!(["a", "b"])),
            (json!({"ss+": "a"}), "ss", json!(["a"])),
            (json!({"+ss": ["c"]}), "ss", json!(["c", "a"])),
            (json!({"ss-": ["a", "c"]}), "ss", json!([])),
            (json!({"ss-": "zzz"}), "ss", json!(["a"])),
            (json!({"s+": "b"}), "s", json!("b")),
            (json!({"s-": "a"}), "s", json!("")),
            (json!({"title:autogenerate": ""}), "title", json!("")),
        ] {
            assert_eq!(after(body.clone())[member], expected, "{body}");
        }
        let code = after(json!({"code:autogenerate": "pre-"}));
        let code = code["code"].as_str().unwrap();
        assert!(code.starts_with("pre-") && code.len() == 12, "{code}");
        let many = apply(Some(&record), &json!({"ss+": ["b", "c"]})).unwrap_err();
        assert_eq!(many["ss"]["code"], "validation_too_many_values");
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(names in prop::collection::vec("(title|n|ss|s|code|id|pw|created)(\\+|-|:autogenerate)?", 0..6), text in ".{0,10}", number: f64) {
            let values = [Value::from(text), number.into(), Value::Null, json!(["a", 1]), json!({"a": null})];
            let body: Map<String, Value> =
                names.into_iter().enumerate().map(|(at, name)| (name, values[at % values.len()].clone())).collect();
            let definition = posts();
            if let Ok(record) = definition.apply(None, &body, true, &now("2026-11-30")) {
                let again = definition.apply(Some(&record), &Map::new(), true, &now("2026-11-30"));
                prop_assert_eq!(again, Ok(record));
            }
        }
    }
}
