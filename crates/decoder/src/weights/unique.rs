//! JSON objects whose keys must differ.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use backend_api::Error;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

/// A JSON object; one that has a key twice is refused, where a map would keep the last value without a word.
pub(super) struct Unique<V>(pub(super) BTreeMap<String, V>);

/// What a value of an object is may depend on its key.
pub(super) trait ValueOf<'de>: Sized {
    /// Reads the value of `key`.
    fn read<A: MapAccess<'de>>(key: &str, access: &mut A) -> Result<Self, A::Error>;
}

impl<'de> ValueOf<'de> for String {
    fn read<A: MapAccess<'de>>(_: &str, access: &mut A) -> Result<Self, A::Error> {
        access.next_value()
    }
}

impl<'de, V: ValueOf<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueVisitor(PhantomData))
    }
}

struct UniqueVisitor<V>(PhantomData<V>);

impl<'de, V: ValueOf<'de>> Visitor<'de> for UniqueVisitor<V> {
    type Value = Unique<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("duplicate key `{key}`")));
            }
            let value = V::read(&key, &mut access)?;
            map.insert(key, value);
        }
        Ok(Unique(map))
    }
}

/// The [`Error::Format`] for JSON `text` that begins at byte `start` of `path`.
pub(super) fn json_error(path: &Path, start: u64, text: &[u8], error: &serde_json::Error) -> Error {
    let lines = text.split_inclusive(|&b| b == b'\n').take(error.line().saturating_sub(1));
    let before = lines.map(<[u8]>::len).sum::<usize>().saturating_add(error.column().saturating_sub(1));
    Error::Format {
        path: path.to_path_buf(),
        offset: Some(start.saturating_add(before.min(text.len()) as u64)),
        reason: format!("not the JSON that should be there: {error}"),
    }
}
