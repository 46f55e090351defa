//! The OpenAPI document, made from the routes, and Swagger UI, served from the binary.
//!
//! A route documents what is particular to it in its `#[utoipa::path]`: its success, and the errors that need
//! a sentence of their own. [`answers`] adds to every operation what follows from its kind (it needs a token,
//! takes a body, names a thing in its path), so a new route cannot forget it.

mod answers;
pub mod pages;

use schema::page::{DEFAULT_LIMIT, MAX_LIMIT};
use utoipa::{
    OpenApi as _,
    openapi::{
        Object, ObjectBuilder, OpenApi, RefOr, Schema, Server, Type,
        path::{Operation, Parameter, PathItem},
        schema::{KnownFormat, SchemaFormat, SchemaType},
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use crate::{http::Policies, settings::PublicUrl};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Palisade", description = "Authentication and authorization: tokens that can be revoked at once, users, roles and permissions"),
    tags(
        (name = "tokens", description = "Log in, refresh, validate and log out"),
        (name = "users", description = "Register, read, change and delete users"),
        (name = "sessions", description = "List and end sessions"),
        (name = "grants", description = "Roles and permissions of users"),
        (name = "roles", description = "Named sets of permissions"),
        (name = "permissions", description = "Permissions that can be granted"),
        (name = "gateways", description = "For gateways, and for services that verify tokens themselves"),
        (name = "operators", description = "Health and metrics"),
    )
)]
struct Document;

const ANY_QUERY: &str = r#"{"any":["films.read",{"all":["films.list","films.open"]}]}"#;

/// The document without routes.
pub fn document() -> OpenApi {
    Document::openapi()
}

/// Completes the document: security schemes, schemas of parameters, the common answers of each operation, and
/// the server. That is the public URL, or else the folder of the document, which is also correct behind a
/// path prefix.
pub fn finish(document: &mut OpenApi, public_url: Option<&PublicUrl>, policies: &Policies) {
    let scheme = |form: &str, about: &str| {
        let http =
            HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format(form).description(Some(about));
        SecurityScheme::Http(http.build())
    };
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("bearer", scheme("JWT", "An access token"));
    components.add_security_scheme("refresh", scheme("prt_", "A refresh token"));
    components.headers = answers::headers();
    document.servers = Some(vec![Server::new(public_url.map_or(".", PublicUrl::as_str))]);
    for (path, item) in &mut document.paths.paths {
        for (_, operation) in operations_mut(item) {
            let parameters = operation.parameters.iter_mut().flatten();
            for parameter in parameters {
                if let RefOr::T(parameter) = parameter {
                    describe(parameter);
                }
            }
            answers::complete(path, policies.of(path), operation);
        }
    }
}

/// The schema of a string that is one of these values.
pub fn one_of(values: impl IntoIterator<Item = &'static str>) -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(values)).build()
}

/// The schema of a string that may also be null.
pub fn nullable(mut schema: Object) -> Object {
    schema.schema_type = SchemaType::from_iter([Type::String, Type::Null]);
    if let Some(values) = &mut schema.enum_values {
        values.push(serde_json::Value::Null);
    }
    schema
}

/// Gives a parameter the schema and description that its name has in every operation.
fn describe(parameter: &mut Parameter) {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let name = || text().pattern(Some("^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$")).build();
    let (about, schema) = match parameter.name.as_str() {
        "id" => ("UUID, or `me` for the caller", text().min_length(Some(1)).build()),
        "sid" => {
            let uuid = text().format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)));
            ("UUID of the session", uuid.build())
        }
        "name" => ("The name of the role or permission", name()),
        "permission" => ("The name of the permission", name()),
        "permissions" => {
            let mut json = text().examples([r#""films.read""#, ANY_QUERY]).build();
            json.content_media_type = "application/json".into();
            ("A permission query: a name in quotes, or one object with the key `any` or `all`", json)
        }
        "limit" => {
            let whole = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1_usize));
            let bounded = whole.maximum(Some(MAX_LIMIT)).default(Some(DEFAULT_LIMIT.into()));
            ("The number of items on a page", bounded.build())
        }
        "page_token" => ("`next_page_token` of the previous page", text().build()),
        _ => return never_null(parameter),
    };
    parameter.description.get_or_insert_with(|| about.into());
    parameter.schema = Some(RefOr::T(Schema::Object(schema)));
}

/// Removes null from the schema: an optional parameter is absent, never null.
fn never_null(parameter: &mut Parameter) {
    if let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema
        && let SchemaType::Array(types) = &schema.schema_type
    {
        let mut types: Vec<_> = types.iter().filter(|kind| **kind != Type::Null).cloned().collect();
        schema.schema_type = match types.pop() {
            Some(only) if types.is_empty() => only.into(),
            last => SchemaType::Array(types.into_iter().chain(last).collect()),
        };
    }
}

fn operations_mut(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let all = [
        ("GET", &mut item.get),
        ("POST", &mut item.post),
        ("PATCH", &mut item.patch),
        ("DELETE", &mut item.delete),
        ("PUT", &mut item.put),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// Every route of a document, as (method, path).
pub fn routes(document: &OpenApi) -> Vec<(String, String)> {
    let mut routes = Vec::new();
    for (path, item) in &document.paths.paths {
        for (method, _) in operations_mut(&mut item.clone()) {
            routes.push((method.to_owned(), path.clone()));
        }
    }
    routes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use crate::http;

    fn document() -> Value {
        serde_json::to_value(http::openapi()).expect("a document")
    }

    fn operations(document: &Value) -> impl Iterator<Item = (String, &Value)> {
        let paths = document["paths"].as_object().expect("paths").iter();
        paths.flat_map(|(path, item)| {
            let of_path = item.as_object().expect("operations").iter();
            of_path.map(move |(method, operation)| (format!("{} {path}", method.to_uppercase()), operation))
        })
    }

    #[test]
    fn operation_ids_are_unique_and_have_two_words() {
        let document = document();
        let mut seen = BTreeMap::new();
        for (route, operation) in operations(&document) {
            let id = operation["operationId"].as_str().expect("an operation id");
            let words =
                id.split('_').all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase()));
            assert!(words, "{route}: {id}");
            // A single word would be the name of a function without its module, which tells a client nothing.
            assert!(id.contains('_'), "{route}: {id} does not say of what");
            assert_eq!(seen.insert(id.to_owned(), route.clone()), None, "{route}: {id} is there twice");
        }
    }

    #[test]
    fn every_operation_describes_all_its_answers() {
        let document = document();
        for (route, operation) in operations(&document) {
            let answers = operation["responses"].as_object().expect("responses");
            assert!(answers.keys().any(|status| status.starts_with('2')), "{route}");
            for (status, answer) in answers {
                let text = answer["description"].as_str().unwrap_or_default();
                assert!(!text.is_empty(), "{route} {status} has no description");
                assert!(answer["headers"]["X-Request-Id"].is_object(), "{route} {status}");
                let has_body = answer.get("content").is_some();
                assert_eq!(has_body, status != "204", "{route} {status}: a body is typed, and 204 has none");
            }
            assert!(operation.get("summary").is_some(), "{route} has no summary");
            assert!(operation.get("x-changes").is_none(), "{route}");
        }
    }

    #[test]
    fn operations_document_the_errors_of_their_kind() {
        let document = document();
        for (route, operation) in operations(&document) {
            let has = |status: &str| operation["responses"].get(status).is_some();
            let token = operation.get("security").is_some();
            assert!(!token || has("401"), "{route}");
            assert!(!operation["requestBody"].is_object() || (has("413") && has("415")), "{route}");
            assert!(!route.contains('{') || has("404"), "{route}");
            assert!(has("400"), "{route}");
        }
    }
}
