//! The public items of a crate, each as a name and a text that says all there is to say of it.
//!
//! Two crates have the same item where name and text are equal. So everything that may differ without meaning is taken
//! out: numbers of items, names of arguments, the order of bounds, and whether a bound stands in a `where` clause.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

pub(crate) type Facts = BTreeMap<String, String>;

/// What is to be said of a crate.
#[derive(Debug)]
pub(crate) struct Items(Facts);

impl std::ops::Deref for Items {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.0
    }
}

impl Items {
    /// What can be reached from the root of a crate.
    ///
    /// # Errors
    ///
    /// Where the JSON is not what rustdoc writes, or has a kind of item that nothing is known of here.
    pub(crate) fn of(doc: &Value) -> Result<Self, String> {
        let mut walk = Walk {
            doc,
            public: BTreeMap::new(),
            facts: Facts::new(),
        };
        let root = &doc["root"];
        let name = text(&walk.item(root)?["name"])?.to_owned();
        // Twice: the first time finds out what the items are called for others, whatever module they lie in.
        walk.visit(root, &name)?;
        walk.facts.clear();
        walk.visit(root, &name)?;
        Ok(Self(walk.facts))
    }
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("no text: {value}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A number of an item, as the keys of rustdoc's tables have it.
fn key(id: &Value) -> String {
    id.to_string()
}

struct Walk<'a> {
    doc: &'a Value,
    /// Paths by which the items of this crate can be named from outside.
    public: BTreeMap<String, String>,
    facts: Facts,
}

impl<'a> Walk<'a> {
    fn item(&self, id: &Value) -> Result<&'a Value, String> {
        let item = &self.doc["index"][key(id)];
        if item.is_null() {
            return Err(format!("there is no item {id}"));
        }
        Ok(item)
    }

    fn say(&mut self, name: impl Into<String>, fact: &Value) {
        self.facts.insert(name.into(), format!("{fact:#}"));
    }

    fn visit(&mut self, id: &Value, path: &str) -> Result<(), String> {
        let item = self.item(id)?;
        let (kind, inner) = kind(item)?;
        if kind != "module" && kind != "use" {
            self.public.insert(key(id), path.to_owned());
        }
        match kind {
            "module" => {
                self.say(path, &json!("module"));
                for child in list(&inner["items"]) {
                    let item = self.item(child)?;
                    let name = match &item["inner"]["use"] {
                        Value::Null => &item["name"],
                        renamed => &renamed["name"],
                    };
                    self.visit(child, &format!("{path}::{}", text(name)?))?;
                }
            }
            "use" if inner["is_glob"] == false => self.visit(&inner["id"], path)?,
            "function" => {
                let function = self.function(inner);
                self.say(path, &function);
            }
            "struct" => self.visit_struct(item, inner, path)?,
            "trait" => self.visit_trait(inner, path)?,
            // The published crate has none of these, so their insides need no words.
            "enum" | "constant" | "type_alias" => self.say(path, &json!(kind)),
            _ => {
                return Err(format!(
                    "{path}: nothing is known of items that are a {kind}"
                ));
            }
        }
        Ok(())
    }

    fn visit_struct(&mut self, item: &Value, inner: &Value, path: &str) -> Result<(), String> {
        let plain = &inner["kind"]["plain"];
        let mut names = Vec::new();
        for field in list(&plain["fields"]) {
            let field = self.item(field)?;
            let name = text(&field["name"])?;
            let (_, is) = kind(field)?;
            let is = self.canonical(is);
            self.say(format!("{path}.{name}"), &is);
            names.push(name);
        }
        names.sort_unstable();
        // Where all fields are public, programs may name all of them, and one more breaks those.
        let all = plain["has_stripped_fields"] == false && !has_attribute(item, "non_exhaustive");
        let generics = self.generics(&inner["generics"]);
        self.say(
            path,
            &json!({
                "struct": generics,
                "shape": if plain.is_object() { json!("plain") } else { inner["kind"].clone() },
                "all fields": if all { Some(names) } else { None },
            }),
        );
        self.visit_impls(&inner["impls"], path)
    }

    fn visit_trait(&mut self, inner: &Value, path: &str) -> Result<(), String> {
        let mut required = Vec::new();
        for child in list(&inner["items"]) {
            let child = self.item(child)?;
            let name = text(&child["name"])?;
            let (kind, child) = kind(child)?;
            if kind != "function" {
                return Err(format!(
                    "{path}::{name}: nothing is known of a {kind} in a trait"
                ));
            }
            if child["has_body"] == false {
                required.push(name);
            }
            let function = self.function(child);
            self.say(format!("{path}::{name}"), &function);
        }
        required.sort_unstable();
        let (generics, bounds) = (
            self.generics(&inner["generics"]),
            self.bounds(&inner["bounds"]),
        );
        self.say(
            path,
            &json!({
                "trait": generics,
                "bounds": bounds,
                "dyn": inner["is_dyn_compatible"],
                "unsafe": inner["is_unsafe"],
                // One more, and those who implement the trait no longer compile.
                "must be written": required,
            }),
        );
        self.visit_impls(&inner["implementations"], path)
    }

    fn visit_impls(&mut self, impls: &Value, path: &str) -> Result<(), String> {
        for id in list(impls) {
            let (_, inner) = kind(self.item(id)?)?;
            // What follows from other implementations alone is not this crate's to lose, and that something is not
            // there is no loss.
            if !inner["blanket_impl"].is_null() || inner["is_negative"] == true {
                continue;
            }
            let generics = self.generics(&inner["generics"]);
            let whom = self.canonical(&inner["for"]);
            let mut said = json!({ "impl": generics, "for": whom });
            if inner["trait"].is_null() {
                for child in list(&inner["items"]) {
                    let child = self.item(child)?;
                    let name = text(&child["name"])?;
                    let (kind, child) = kind(child)?;
                    said["is"] = match kind {
                        "function" => self.function(child),
                        _ => self.canonical(child),
                    };
                    self.say(format!("{path}::{name}"), &said);
                }
            } else {
                let of = self.canonical(&inner["trait"]);
                self.say(
                    format!("impl {} for {}", short(&of), short(&whom)),
                    &generics,
                );
            }
        }
        Ok(())
    }

    /// A function without the names of its arguments.
    fn function(&self, function: &Value) -> Value {
        let inputs: Vec<_> = list(&function["sig"]["inputs"])
            .iter()
            .map(|input| self.canonical(&input[1]))
            .collect();
        json!({
            "inputs": inputs,
            "output": self.canonical(&function["sig"]["output"]),
            "generics": self.generics(&function["generics"]),
            "header": function["header"],
        })
    }

    /// Parameters in their order, and all that is asked of them, sorted.
    fn generics(&self, generics: &Value) -> Value {
        let mut names = Vec::new();
        let mut asked = Vec::new();
        for param in list(&generics["params"]) {
            names.push(&param["name"]);
            let of = json!({ "generic": param["name"] });
            for bound in self.bounds(&param["kind"]["type"]["bounds"]) {
                asked.push(json!([of, bound]).to_string());
            }
            for longer in list(&param["kind"]["lifetime"]["outlives"]) {
                asked.push(json!([of, longer]).to_string());
            }
            if let Some(constant) = param["kind"].get("const") {
                asked.push(json!([of, self.canonical(constant)]).to_string());
            }
        }
        for predicate in list(&generics["where_predicates"]) {
            let bound = &predicate["bound_predicate"];
            if bound.is_object() {
                let of = self.canonical(&bound["type"]);
                let bounds = self.bounds(&bound["bounds"]);
                asked.extend(bounds.iter().map(|bound| json!([of, bound]).to_string()));
            } else {
                asked.push(self.canonical(predicate).to_string());
            }
        }
        asked.sort_unstable();
        json!({ "params": names, "where": asked })
    }

    fn bounds(&self, bounds: &Value) -> Vec<Value> {
        let mut bounds: Vec<_> = list(bounds)
            .iter()
            .map(|bound| self.canonical(bound))
            .collect();
        bounds.sort_by_key(ToString::to_string);
        bounds
    }

    /// A type or a bound, with names in the place of numbers.
    fn canonical(&self, value: &Value) -> Value {
        match value {
            Value::Array(values) => values.iter().map(|value| self.canonical(value)).collect(),
            Value::Object(fields) if fields.contains_key("id") => {
                let id = key(&fields["id"]);
                let path = match self.public.get(&id) {
                    Some(path) => path.clone(),
                    None => list(&self.doc["paths"][&id]["path"])
                        .iter()
                        .filter_map(Value::as_str)
                        .collect::<Vec<_>>()
                        .join("::"),
                };
                let mut named = self.fields(fields);
                named.remove("id");
                named.insert("path".to_owned(), path.into());
                Value::Object(named)
            }
            Value::Object(fields) => Value::Object(self.fields(fields)),
            other => other.clone(),
        }
    }

    fn fields(&self, fields: &Map<String, Value>) -> Map<String, Value> {
        let none = json!({ "angle_bracketed": { "args": [], "constraints": [] } });
        fields
            .iter()
            .map(|(name, value)| {
                (
                    name.clone(),
                    if *value == none {
                        Value::Null
                    } else {
                        self.canonical(value)
                    },
                )
            })
            .collect()
    }
}

/// What kind of item it is, and what is inside.
fn kind(item: &Value) -> Result<(&str, &Value), String> {
    let inner = item["inner"]
        .as_object()
        .and_then(|inner| inner.iter().next());
    inner
        .map(|(kind, inner)| (kind.as_str(), inner))
        .ok_or_else(|| format!("no item: {item}"))
}

/// A canonical type as it would be written, as far as that goes in a word.
fn short(canonical: &Value) -> String {
    let path = match canonical.get("resolved_path") {
        Some(path) => path,
        None => canonical,
    };
    match (path["path"].as_str(), &path["args"]) {
        (Some(name), Value::Null) => name.to_owned(),
        (Some(name), args) => format!("{name}<{args}>"),
        (None, _) => path.to_string(),
    }
}

fn has_attribute(item: &Value, name: &str) -> bool {
    list(&item["attrs"])
        .iter()
        .any(|attribute| attribute.to_string().contains(name))
}
