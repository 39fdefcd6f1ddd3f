//! Single values: whether what was given fits the type, and its canonical form.
use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Number;

use crate::object::Value;
use crate::quantity::Quantity;
use crate::schema::Scalar;
use crate::time;

/// A single value as the parser hands it over.
pub(super) enum Given<'g> {
    Text(Cow<'g, str>),
    Number(Number),
    Bool(bool),
}

impl Given<'_> {
    pub fn into_value(self) -> Value {
        match self {
            Self::Text(text) => Value::String(text.into_owned()),
            Self::Number(number) => Value::Number(number),
            Self::Bool(value) => Value::Bool(value),
        }
    }

    pub fn json_type(&self) -> &'static str {
        match self {
            Self::Text(_) => "string",
            Self::Number(_) => "number",
            Self::Bool(_) => "bool",
        }
    }
}

/// Why a value does not fit.
pub(super) enum Misfit {
    /// It has another JSON type, or is a number of the wrong kind.
    Type(String),
    /// It is malformed; the whole message.
    Value(String),
}

/// The Go type's name.
pub(super) fn type_name(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::String => "string",
        Scalar::Bytes => "[]uint8",
        Scalar::Int32 => "int32",
        Scalar::Int64 => "int64",
        Scalar::Double => "float64",
        Scalar::Bool => "bool",
        Scalar::Time => "v1.Time",
        Scalar::MicroTime => "v1.MicroTime",
        Scalar::Quantity => "resource.Quantity",
        Scalar::IntOrString => "intstr.IntOrString",
    }
}

/// What null stands for in a list or a map.
pub(super) fn zero(scalar: Scalar) -> Value {
    match scalar {
        Scalar::String | Scalar::Bytes => "".into(),
        Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::IntOrString => 0.into(),
        Scalar::Bool => false.into(),
        Scalar::Quantity => "0".into(),
        Scalar::Time | Scalar::MicroTime => Value::Null,
    }
}

/// The value that `given` is as a `scalar`, canonical if so asked.
pub(super) fn read(scalar: Scalar, given: Given<'_>, normalise: bool) -> Result<Value, Misfit> {
    match (scalar, given) {
        (Scalar::String, Given::Text(text)) => Ok(Value::String(text.into_owned())),
        (Scalar::Bytes, Given::Text(text)) => bytes(text),
        (Scalar::Bool, Given::Bool(value)) => Ok(Value::Bool(value)),
        (Scalar::Double, Given::Number(number)) => Ok(Value::Number(number)),
        (Scalar::Int32, Given::Number(number)) => integer(number, |integer| i32::try_from(integer).is_ok()),
        (Scalar::Int64, Given::Number(number)) => integer(number, |_| true),
        (Scalar::Time, Given::Text(text)) => time_text(text, normalise, time::format),
        (Scalar::MicroTime, Given::Text(text)) => time_text(text, normalise, time::format_micro),
        (Scalar::Quantity, Given::Text(text)) => quantity(&text, normalise),
        (Scalar::Quantity, Given::Number(number)) => quantity(&number.to_string(), true),
        (Scalar::IntOrString, Given::Text(text)) => Ok(Value::String(text.into_owned())),
        (Scalar::IntOrString, Given::Number(number)) => {
            integer(number, |integer| i32::try_from(integer).is_ok())
        }
        (_, given) => Err(Misfit::Type(given.json_type().to_owned())),
    }
}

fn integer(number: Number, fits: impl Fn(i64) -> bool) -> Result<Value, Misfit> {
    match number.as_i64().filter(|integer| fits(*integer)) {
        Some(_) => Ok(Value::Number(number)),
        None => Err(Misfit::Type(format!("number {number}"))),
    }
}

fn bytes(text: Cow<'_, str>) -> Result<Value, Misfit> {
    // Line breaks inside are fine, as in Go.
    let clean: Cow<'_, str> = match text.contains(['\n', '\r']) {
        true => text.replace(['\n', '\r'], "").into(),
        false => Cow::Borrowed(&text),
    };
    match STANDARD.decode(clean.as_bytes()) {
        Ok(_) => Ok(Value::String(clean.into_owned())),
        Err(base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _)) => {
            Err(Misfit::Value(format!("illegal base64 data at input byte {at}")))
        }
        Err(_) => Err(Misfit::Value(format!("illegal base64 data at input byte {}", clean.len() / 4 * 4))),
    }
}

fn time_text(text: Cow<'_, str>, normalise: bool, format: fn(time::Time) -> String) -> Result<Value, Misfit> {
    match time::parse(&text) {
        Some(time) if normalise => Ok(format(time).into()),
        Some(_) => Ok(Value::String(text.into_owned())),
        None => {
            let message = format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse it");
            Err(Misfit::Value(message))
        }
    }
}

fn quantity(text: &str, normalise: bool) -> Result<Value, Misfit> {
    match text.trim().parse::<Quantity>() {
        Ok(quantity) if normalise => Ok(quantity.to_string().into()),
        Ok(_) => Ok(text.into()),
        Err(error) => Err(Misfit::Value(error.to_string())),
    }
}
