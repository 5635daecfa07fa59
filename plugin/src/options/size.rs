//! Sizes as people write them. Every unit is a power of 1024, as in Docker's own `--memory 1g` and in LVM: `10G`, `10GB`
//! and `10GiB` are the same, so nobody gets less than they meant. A bare number is GiB.

/// The largest volume, in bytes.
pub use bulkhead_engine::geometry::MAX_SIZE;
use bulkhead_engine::geometry::SIZE_STEP;

const UNITS: &[(&str, u32)] = &[("b", 0), ("k", 10), ("m", 20), ("g", 30), ("t", 40), ("p", 50)];
const FORMS: &str = "write a number with a unit, such as 512M, 10G or 1.5T";

/// Parses a size and rounds it up to a whole MiB. The error says what is wrong and what to write.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    if number.is_empty() {
        return Err(format!("that is not a number; {FORMS}"));
    }
    let shift = shift_of(unit.trim()).ok_or_else(|| format!("{:?} is not a unit; {FORMS}", unit.trim()))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || (number.contains('.') && fraction.is_empty()) {
        return Err(format!("that is not a number; {FORMS}"));
    }
    let too_large = || "that is more than a volume can have (1 PiB); ask for less".to_owned();
    if whole.len() > 18 {
        return Err(too_large());
    }
    // Digits beyond the ninth are less than a byte of a GiB; rounding up covers them.
    let (fraction, rest) = fraction.split_at(fraction.len().min(9));
    let scale = 10_u128.pow(fraction.len() as u32);
    let fraction: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().map_err(|_| FORMS.to_owned())?
    };
    let whole: u128 = whole.parse().map_err(|_| FORMS.to_owned())?;
    let beyond = u128::from(rest.bytes().any(|digit| digit != b'0'));
    let scaled = whole * scale + fraction + beyond;
    if scaled > u128::MAX >> shift {
        return Err(too_large());
    }
    let bytes = (scaled << shift).div_ceil(scale);
    if bytes == 0 {
        return Err(format!("a volume cannot be empty; {FORMS}"));
    }
    let step = u128::from(SIZE_STEP);
    let rounded = bytes.div_ceil(step) * step;
    match u64::try_from(rounded) {
        Ok(size) if size <= MAX_SIZE => Ok(size),
        _ => Err(too_large()),
    }
}

fn shift_of(unit: &str) -> Option<u32> {
    if unit.is_empty() {
        return Some(30);
    }
    UNITS.iter().find_map(|(letter, shift)| {
        let rest = unit.strip_prefix(letter)?;
        let known = rest.is_empty() || (*shift > 0 && matches!(rest, "b" | "i" | "ib"));
        known.then_some(*shift)
    })
}

/// A size for people: `1.5 GiB`, exact where it is a whole number of a unit.
pub fn format_size(bytes: u64) -> String {
    const NAMES: &[(&str, u32)] = &[("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let Some((name, shift)) = NAMES.iter().find(|(_, shift)| bytes >= 1 << shift) else {
        return format!("{bytes} B");
    };
    let unit = 1_u64 << shift;
    if bytes.is_multiple_of(unit) {
        format!("{} {name}", bytes / unit)
    } else {
        format!("{:.1} {name}", bytes as f64 / unit as f64)
    }
}
