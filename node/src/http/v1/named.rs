//! Bodies that name or describe a role or a permission.

use schema::{Name, name::NotAName, text::Description};
use serde::Deserialize;
use store::Added;
use utoipa::ToSchema;

use crate::http::{extract::body::present, respond::problem::Problem};

/// A new permission or role.
#[derive(Deserialize, ToSchema)]
pub struct NewNamed {
    /// `[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}`; never changes.
    #[schema(example = "films.read")]
    pub name: String,
    /// At most 500 characters.
    pub description: Option<String>,
}

impl NewNamed {
    /// The name and the description.
    ///
    /// # Errors
    /// 400 if one of them breaks the rules.
    pub fn parse(&self) -> Result<(Name, Option<String>), Problem> {
        Ok((name(&self.name)?, description(self.description.as_deref())?))
    }
}

/// A new description.
#[derive(Deserialize, ToSchema)]
pub struct NewDescription {
    /// At most 500 characters; null removes the description, absent keeps it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub description: Option<Option<String>>,
}

impl NewDescription {
    /// The description; `None` to keep the old one.
    ///
    /// # Errors
    /// 400 if it breaks the rules.
    pub fn parse(&self) -> Result<Option<Option<String>>, Problem> {
        self.description.as_ref().map(|text| description(text.as_deref())).transpose()
    }
}

/// The name of an existing role or permission.
#[derive(Deserialize, ToSchema)]
pub struct NameOf {
    #[schema(example = "films.read")]
    pub name: String,
}

impl NameOf {
    /// The name.
    ///
    /// # Errors
    /// 400 if it cannot be one.
    pub fn parse(&self) -> Result<Name, Problem> {
        name(&self.name)
    }
}

/// The answer after a named thing was added, or not.
pub fn added(added: Added) -> Result<(), Problem> {
    match added {
        Added::Done => Ok(()),
        Added::Exists => Err(Problem::conflict("name_taken", "This name is taken")),
        Added::Full => Err(Problem::conflict("too_many", "There are as many as there may be")),
    }
}

fn name(text: &str) -> Result<Name, Problem> {
    text.parse().map_err(|error: NotAName| Problem::field("name", error.to_string()))
}

fn description(text: Option<&str>) -> Result<Option<String>, Problem> {
    let parsed = text.map(Description::parse).transpose();
    let parsed = parsed.map_err(|why| Problem::field("description", why.to_string()))?;
    Ok(parsed.map(Description::into_string))
}
