//! Kubernetes' quantities: `100m`, `1Gi`, `2e3`. Exact, down to a billionth, and printed in canonical form.
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// A billionth, the smallest part a quantity can have: finer ones are rounded up.
const NANOS_PER_UNIT: i128 = 1_000_000_000;
/// Digits that are read at most: enough for 2^63 in nanos with room; more could overflow the arithmetic.
const DIGITS_MAX: usize = 28;

/// The suffixes a quantity is printed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `Ki`, `Mi`, ...
    Binary,
    /// `m`, `k`, `M`, ...
    Decimal,
    /// `e3`, `e6`, ...
    Exponent,
}

/// An amount of a resource.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// The text is not a quantity. The message is Kubernetes' own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct ParseQuantityError;

const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0, format: Format::Decimal };

    /// A whole number of units.
    pub const fn from_units(units: i64) -> Self {
        Self { nanos: units as i128 * NANOS_PER_UNIT, format: Format::Decimal }
    }

    /// A whole number of thousandths, as CPU is counted.
    pub const fn from_millis(millis: i64) -> Self {
        Self { nanos: millis as i128 * (NANOS_PER_UNIT / 1_000), format: Format::Decimal }
    }

    /// A whole number of bytes, printed with binary suffixes.
    pub const fn from_bytes(bytes: i64) -> Self {
        Self { nanos: bytes as i128 * NANOS_PER_UNIT, format: Format::Binary }
    }

    /// Units, rounded up, as Kubernetes' own `Value()`.
    pub fn units(&self) -> i64 {
        clamp(div_ceil(self.nanos, NANOS_PER_UNIT))
    }

    /// Thousandths, rounded up, as Kubernetes' own `MilliValue()`.
    pub fn millis(&self) -> i64 {
        clamp(div_ceil(self.nanos, NANOS_PER_UNIT / 1_000))
    }

    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether it is below nothing.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Whether it is a whole number of units.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANOS_PER_UNIT == 0
    }

    /// Reads a JSON string or number.
    pub fn from_json(value: &serde_json::Value) -> Result<Self, ParseQuantityError> {
        match value {
            serde_json::Value::String(text) => text.parse(),
            serde_json::Value::Number(number) => number.to_string().parse(),
            _ => Err(ParseQuantityError),
        }
    }
}

fn div_ceil(number: i128, by: i128) -> i128 {
    let quotient = number / by;
    if number % by > 0 { quotient + 1 } else { quotient }
}

fn clamp(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}

// === reading ===

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (digits, scale) = digits(number)?;
        let (format, nanos) = apply_suffix(digits, scale, suffix)?;
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }
}

/// The number's digits without the point, and how many of them stand after it.
fn digits(number: &str) -> Result<(i128, u32), ParseQuantityError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(ParseQuantityError);
    }
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    if whole.len() + fraction.len() > DIGITS_MAX {
        return Err(ParseQuantityError);
    }
    let all = whole.bytes().chain(fraction.bytes());
    let value = all.fold(0_i128, |value, digit| value * 10 + i128::from(digit - b'0'));
    Ok((value, u32::try_from(fraction.len()).map_err(|_| ParseQuantityError)?))
}

fn apply_suffix(digits: i128, scale: u32, suffix: &str) -> Result<(Format, i128), ParseQuantityError> {
    if let Some((_, shift)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        let scaled = digits
            .checked_mul(NANOS_PER_UNIT)
            .and_then(|n| n.checked_mul(1 << shift))
            .ok_or(ParseQuantityError)?;
        return Ok((Format::Binary, div_ceil(scaled, 10_i128.pow(scale))));
    }
    let (format, exponent) = match DECIMAL.iter().find(|(name, _)| *name == suffix) {
        Some((_, exponent)) => (Format::Decimal, *exponent),
        None => (Format::Exponent, exponent(suffix)?),
    };
    let shift = exponent + 9 - i32::try_from(scale).map_err(|_| ParseQuantityError)?;
    let nanos = match u32::try_from(shift) {
        Ok(shift) => 10_i128.checked_pow(shift).and_then(|factor| digits.checked_mul(factor)),
        Err(_) => Some(
            10_i128
                .checked_pow(shift.unsigned_abs())
                .map_or(i128::from(digits != 0), |by| div_ceil(digits, by)),
        ),
    };
    Ok((format, nanos.ok_or(ParseQuantityError)?))
}

fn exponent(suffix: &str) -> Result<i32, ParseQuantityError> {
    let digits = suffix.strip_prefix(['e', 'E']).ok_or(ParseQuantityError)?;
    let exponent: i32 = digits.parse().map_err(|_| ParseQuantityError)?;
    // Beyond this every value overflows or rounds to the smallest part.
    if exponent.abs() > 64 { Err(ParseQuantityError) } else { Ok(exponent) }
}

// === printing ===

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let sign = if self.nanos < 0 { "-" } else { "" };
        let nanos = self.nanos.abs();
        let whole = nanos % NANOS_PER_UNIT == 0;
        if self.format == Format::Binary && whole && nanos >= 1024 * NANOS_PER_UNIT {
            let units = nanos / NANOS_PER_UNIT;
            let fits = BINARY.iter().rev().find(|(_, shift)| units % (1_i128 << shift) == 0);
            return match fits {
                Some((suffix, shift)) => write!(f, "{sign}{}{suffix}", units >> shift),
                None => write!(f, "{sign}{units}"),
            };
        }
        let (mut exponent, mut value) = (-9, nanos);
        while exponent < 18 && value % 1_000 == 0 {
            value /= 1_000;
            exponent += 3;
        }
        write!(f, "{sign}{value}")?;
        match self.format {
            Format::Exponent if exponent == 0 => Ok(()),
            Format::Exponent => write!(f, "e{exponent}"),
            _ => {
                f.write_str(DECIMAL.iter().find(|(_, own)| *own == exponent).map_or("", |(suffix, _)| suffix))
            }
        }
    }
}

// === arithmetic ===

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_sub(other.nanos), format }
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::ZERO, |sum, one| sum + one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        let cases = [
            ("0", "0"),
            ("1", "1"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("1000Ki", "1000Ki"),
            ("512", "512"),
            ("0.5Ki", "512"),
            ("1000", "1k"),
            ("1e3", "1e3"),
            ("12e-3", "12e-3"),
            ("1E", "1E"),
            ("-2k", "-2k"),
            ("+1", "1"),
            (".5", "500m"),
            ("1.", "1"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("123Mi", "123Mi"),
        ];
        for (text, printed) in cases {
            assert_eq!(text.parse::<Quantity>().unwrap().to_string(), printed, "{text}");
        }
    }

    #[test]
    fn malformed_text_is_refused() {
        for bad in ["", "m", "1.2.3", "1Kii", "1 ", " 1", "e3", "1e", "one", "--1", "1ki", ".", "1e99"] {
            assert!(bad.parse::<Quantity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn values_round_up() {
        assert_eq!("1m".parse::<Quantity>().unwrap().units(), 1);
        assert_eq!("-1m".parse::<Quantity>().unwrap().units(), 0);
        assert_eq!("100m".parse::<Quantity>().unwrap().millis(), 100);
        assert_eq!("1Gi".parse::<Quantity>().unwrap().units(), 1 << 30);
        assert_eq!("1u".parse::<Quantity>().unwrap().millis(), 1);
    }

    #[test]
    fn arithmetic_keeps_the_format() {
        let memory: Quantity = ["1Gi", "512Mi"].iter().map(|text| text.parse::<Quantity>().unwrap()).sum();
        assert_eq!(memory.to_string(), "1536Mi");
        assert_eq!((Quantity::from_millis(1500) - Quantity::from_units(1)).to_string(), "500m");
        assert!(Quantity::from_units(1) > Quantity::from_millis(999));
        assert_eq!("1".parse::<Quantity>(), "1000m".parse::<Quantity>());
    }
}
