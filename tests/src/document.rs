//! What the OpenAPI document promises about an answer, checked at every answer that the suite sees.
//!
//! The document is what the binary under test says; a test compares it with the committed one.

use std::{process::Command, sync::OnceLock};

use serde_json::{Map, Value};

use crate::{Answer, binary::palisade};

/// Headers that an answer has only if the document says so.
const OURS: [&str; 10] = [
    "x-request-id",
    "palisade-visible",
    "palisade-durability",
    "palisade-stale",
    "retry-after",
    "www-authenticate",
    "cache-control",
    "x-auth-user",
    "x-auth-session",
    "x-auth-kind",
];

/// The answer is one that the document promises for this operation: its status, its headers, its body.
/// What is no operation of the document is not looked at.
///
/// # Errors
/// What is wrong.
pub fn check(method: &str, target: &str, answer: &Answer) -> Result<(), String> {
    let document = document();
    let path = target.split('?').next().unwrap_or_default();
    let Some(operation) = operation(document, method, path) else { return Ok(()) };
    let is_elsewhere = answer.status == 404 && !operation.template.contains('{');
    if is_elsewhere {
        // With a listener of their own, operators' paths are not on the public one, and the reverse.
        return Ok(());
    }
    let responses = &operation.value["responses"];
    let Some(response) = responses.get(answer.status.to_string()) else {
        return Err(format!("the document has no {} of this operation", answer.status));
    };
    headers(document, response, answer)?;
    body(document, response, answer)
}

fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let run = Command::new(palisade()).arg("openapi").output().expect("the binary starts");
        serde_json::from_slice(&run.stdout).expect("`palisade openapi` writes JSON")
    })
}

struct Operation<'a> {
    template: &'a str,
    value: &'a Value,
}

fn operation<'a>(document: &'a Value, method: &str, path: &str) -> Option<Operation<'a>> {
    let paths = document["paths"].as_object()?;
    // A path as it stands wins over one with parameters.
    let mut found: Vec<_> = paths.iter().filter(|(template, _)| is_of(path, template)).collect();
    found.sort_by_key(|(template, _)| template.matches('{').count());
    let (template, item) = found.first()?;
    Some(Operation { template, value: item.get(method.to_lowercase())? })
}

fn is_of(path: &str, template: &str) -> bool {
    let mut given = path.split('/');
    let mut wanted = template.split('/');
    loop {
        match (given.next(), wanted.next()) {
            (None, None) => return true,
            (Some(segment), Some(parameter)) if parameter.starts_with('{') => {
                if segment.is_empty() {
                    return false;
                }
            }
            (Some(segment), Some(literal)) if segment == literal => {}
            _ => return false,
        }
    }
}

fn headers(document: &Value, response: &Value, answer: &Answer) -> Result<(), String> {
    let none = Map::new();
    let documented = response["headers"].as_object().unwrap_or(&none);
    for (name, header) in documented {
        let header = resolved(document, header);
        match answer.header(name) {
            None if header["required"] == true => return Err(format!("the document promises {name}")),
            Some(value) if header["schema"]["type"] == "integer" && value.parse::<u64>().is_err() => {
                return Err(format!("{name} is no number"));
            }
            _ => {}
        }
    }
    for name in OURS {
        let known = documented.keys().any(|known| known.eq_ignore_ascii_case(name));
        if answer.header(name).is_some() && !known {
            return Err(format!("the document does not know {name} of this answer"));
        }
    }
    Ok(())
}

fn body(document: &Value, response: &Value, answer: &Answer) -> Result<(), String> {
    let Some(content) = response["content"].as_object() else {
        return if answer.body.is_empty() { Ok(()) } else { Err("the document promises no body".into()) };
    };
    let kind = answer.header("content-type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let Some(typed) = content.get(kind) else {
        return Err(format!("the document does not know the content type {kind:?} of this answer"));
    };
    if kind != "application/json" {
        return Ok(());
    }
    let json = serde_json::from_slice(&answer.body).map_err(|error| format!("no JSON: {error}"))?;
    fits(document, &typed["schema"], &json, "the body")
}

fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let reference = value["$ref"].as_str().and_then(|text| text.strip_prefix('#'));
    reference.and_then(|pointer| document.pointer(pointer)).unwrap_or(value)
}

/// The value is one that the schema allows, as far as the document's schemas go. A member that no schema
/// names is an error: a typed client would not see it.
fn fits(document: &Value, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    let schema = resolved(document, schema);
    for keyword in ["oneOf", "anyOf"] {
        if let Some(schemas) = schema[keyword].as_array() {
            let results = schemas.iter().map(|schema| fits(document, schema, value, place));
            let errors: Vec<_> = results.filter_map(Result::err).collect();
            return if errors.len() < schemas.len() { Ok(()) } else { Err(errors.join("; ")) };
        }
    }
    let wrong = |what: &str| Err(format!("{place}: {what}"));
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is_allowed = kinds.contains(&kind) || (kind == "integer" && kinds.contains(&"number"));
    if !kinds.is_empty() && !is_allowed {
        return wrong(&format!("is {kind}, not {kinds:?}"));
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
        return wrong(&format!("{value} is not one of {}", schema["enum"]));
    }
    match value {
        Value::String(text) => match schema["format"].as_str() {
            Some("date-time") if !is_time(text) => wrong("is no RFC 3339 time in UTC"),
            Some("uuid") if !is_uuid(text) => wrong("is no UUID"),
            _ => Ok(()),
        },
        Value::Array(items) if schema["items"].is_object() => {
            items.iter().try_for_each(|item| fits(document, &schema["items"], item, &format!("{place}[]")))
        }
        Value::Object(members) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            for name in required {
                if !members.contains_key(name) {
                    return wrong(&format!("lacks {name}"));
                }
            }
            members.iter().try_for_each(|(name, member)| {
                let place = format!("{place}.{name}");
                let known = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
                match known {
                    Some(schema) => fits(document, schema, member, &place),
                    None => Err(format!("{place} is not in the document")),
                }
            })
        }
        _ => Ok(()),
    }
}

/// `2026-01-31T12:00:00Z`, with or without a fraction.
fn is_time(text: &str) -> bool {
    let shape = "0000-00-00T00:00:00";
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let Some((head, rest)) = text.split_at_checked(shape.len()) else { return false };
    let same = head
        .bytes()
        .zip(shape.bytes())
        .all(|(is, wanted)| if wanted == b'0' { is.is_ascii_digit() } else { is == wanted });
    let fraction = rest.strip_suffix('Z').map(|rest| rest.strip_prefix('.').unwrap_or(rest));
    same && fraction.is_some_and(digits)
}

fn is_uuid(text: &str) -> bool {
    let lengths: Vec<_> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Answer {
        let header = |(name, value): &(&'static str, &'static str)| {
            (hyper::header::HeaderName::from_static(name), hyper::header::HeaderValue::from_static(value))
        };
        let headers = headers.iter().map(header).collect();
        Answer { status, headers, body: body.to_owned().into(), asked: String::new() }
    }

    #[test]
    fn answer_outside_the_document_is_reported() {
        let wrong = |status, headers: &[_], body: &str| {
            check("GET", "/api/v1/auth_token/validation?x", &answer(status, headers, body))
        };
        let id = ("x-request-id", "x");
        let json = ("content-type", "application/json");
        let good = r#"{"msg":"Token is valid"}"#;
        assert_eq!(wrong(200, &[id, json], good), Ok(()));
        assert!(wrong(202, &[id, json], good).is_err(), "another status");
        assert!(wrong(200, &[json], good).is_err(), "a header that is missing");
        assert!(wrong(200, &[id, json, ("palisade-visible", "0/0")], good).is_err(), "an unknown header");
        assert!(wrong(200, &[id, json], r#"{"msg":null}"#).is_err(), "null for a string");
        assert!(wrong(200, &[id, json], r#"{"msg":"x","more":1}"#).is_err(), "an unknown member");
        assert!(wrong(200, &[id, json], "{}").is_err(), "a missing member");
        assert!(wrong(200, &[id], good).is_err(), "no content type");
        assert!(wrong(401, &[id, json], good).is_err(), "an error of another form, without a challenge");
        assert_eq!(check("GET", "/nothing", &answer(299, &[], "")), Ok(()));
        assert_eq!(check("PUT", "/api/v1/auth_token/validation", &answer(405, &[], "")), Ok(()));
    }

    #[test]
    fn schemas_are_followed() {
        let document = json!({"s": {"type": ["string", "null"], "format": "date-time"}});
        let schema = json!({"type": "object", "required": ["at"], "properties": {
            "at": {"$ref": "#/s"}, "n": {"type": "array", "items": {"type": "integer"}},
            "one": {"oneOf": [{"type": "null"}, {"type": "string", "enum": ["a"]}]},
            "map": {"type": "object", "additionalProperties": {"type": "string", "format": "uuid"}},
        }});
        let good = [
            json!({"at": null}),
            json!({"at": "2026-01-31T12:00:00Z"}),
            json!({"at": "2026-01-31T12:00:00.123Z", "n": [1, 2], "one": "a"}),
            json!({"at": null, "one": null, "map": {"x": "01890a5d-ac96-774b-bcce-b302099a8057"}}),
        ];
        let bad = [
            json!(null),
            json!({}),
            json!({"at": "yesterday"}),
            json!({"at": "2026-01-31T12:00:00+01:00"}),
            json!({"at": null, "n": [1.5]}),
            json!({"at": null, "n": null}),
            json!({"at": null, "one": "b"}),
            json!({"at": null, "map": {"x": "y"}}),
            json!({"at": null, "other": 1}),
        ];
        for value in good {
            assert_eq!(fits(&document, &schema, &value, "it"), Ok(()), "{value}");
        }
        for value in bad {
            assert!(fits(&document, &schema, &value, "it").is_err(), "{value}");
        }
    }
}
