//! `provision`: devices of the constrained profile, made before they have ever run: keys and pairing for the flash of each, the
//! other side of the pairing for the service, labels for people.

use std::{collections::BTreeSet, fmt::Write as _, fs};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use zeroize::Zeroizing;

use crate::{
    arguments::Provision,
    failure::Failure,
    identity::{self, cannot_write, write_private},
    report::{self, Report},
};

/// The longest name of a device, in characters.
const MAX_NAME: usize = 64;
/// Of labels.
const SCHEME: &str = "sealway-device:";

pub(crate) fn provision(options: &Provision) -> Result<(), Failure> {
    let service = identity::card(&options.service)?;
    let names = names(options)?;
    let folder = &options.out;
    // Nothing is written over: a device whose keys are gone is lost.
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::given(format!("{} is not empty; give a folder that is, or none yet", folder.display())));
    }
    fs::create_dir_all(folder).map_err(|error| Failure::failed(format!("{}: {error}", folder.display())))?;
    // As much as is needed: a buffer that grew would leave secrets behind.
    let text = |line: usize| Zeroizing::new(String::with_capacity((names.len() + 1) * (MAX_NAME + line)));
    let (mut pairings, mut recoveries) = (text(64 + 256), text(64 + 80));
    push_line(&mut pairings, ["name", "device", "pairing"]);
    push_line(&mut recoveries, ["name", "device", "recovery key"]);
    let mut labels = String::from("name,device,label\n");
    for name in &names {
        let made = sealway::provision(&service).map_err(Failure::failed)?;
        let device = HEXLOWER.encode(&made.id.0);
        write_private(&folder.join(format!("{name}.bin")), &made.device)?;
        if options.header {
            write_private(&folder.join(format!("{name}.h")), header(name, &made.device).as_bytes())?;
        }
        let label = format!("{SCHEME}{}", BASE64URL_NOPAD.encode(&made.id.0));
        if options.labels {
            let path = folder.join(format!("{name}.svg"));
            fs::write(&path, svg(name, &device, &label)?).map_err(|error| cannot_write(&path, &error))?;
        }
        let pairing = Zeroizing::new(BASE64URL_NOPAD.encode(&made.service));
        let recovery = Zeroizing::new(HEXLOWER.encode(made.recovery.expose().expose()));
        push_line(&mut pairings, [name, &device, &pairing]);
        push_line(&mut recoveries, [name, &device, &recovery]);
        push_line(&mut labels, [name, &device, &label]);
    }
    write_private(&folder.join("pairings.csv"), pairings.as_bytes())?;
    write_private(&folder.join("recoveries.csv"), recoveries.as_bytes())?;
    let path = folder.join("labels.csv");
    fs::write(&path, &labels).map_err(|error| cannot_write(&path, &error))?;
    let mut report = Report::default().with("devices", names.len()).with("folder", folder.display().to_string());
    if let ([name], Some(line), false) = (names.as_slice(), labels.lines().nth(1), options.json) {
        let label = line.rsplit(',').next().unwrap_or_default();
        report::print(format!("{}\n", drawn(label)?).as_bytes())?;
        report = report.with("name", name.as_str()).with("label", label);
    }
    report.print(options.json)?;
    eprintln!(
        "give the service pairings.csv; move recoveries.csv away: who has it and nobody else can rotate the identities"
    );
    Ok(())
}

/// Of the command line, and of a file: the first column of each line, whose first line may be a heading.
fn names(options: &Provision) -> Result<Vec<String>, Failure> {
    let mut names = options.names.clone();
    if let Some(path) = &options.list {
        let text = fs::read_to_string(path).map_err(|error| Failure::given(format!("{}: {error}", path.display())))?;
        let column = text.lines().map(|line| line.split(',').next().unwrap_or_default().trim().trim_matches('"'));
        let column = column.filter(|name| !name.is_empty()).enumerate();
        names.extend(column.filter(|(index, name)| *index > 0 || *name != "name").map(|(_, name)| name.to_string()));
    }
    let mut known = BTreeSet::new();
    for name in &names {
        let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
        let is_name = name.len() <= MAX_NAME && name.chars().all(is_plain) && !name.starts_with('.');
        if !is_name || name.is_empty() {
            let what = format!("up to {MAX_NAME} letters, digits, dots, dashes and underscores, no dot first");
            return Err(Failure::given(format!("{name:?} is no name of a device: {what}")));
        }
        // Names are those of files.
        if !known.insert(name.to_ascii_lowercase()) {
            return Err(Failure::given(format!("two devices are called {name}")));
        }
    }
    if names.is_empty() {
        return Err(Failure::given("no device: give names, or --list FILE"));
    }
    Ok(names)
}

fn push_line(text: &mut String, fields: [&str; 3]) {
    // Into a string nothing fails.
    let _ = writeln!(text, "{}", fields.join(","));
}

/// The blob as a constant of C.
fn header(name: &str, blob: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(512 + blob.len() * 7));
    let _ = writeln!(text, "/* {name}: private keys and pairing. For this one device. */");
    let _ = writeln!(text, "#define SEALWAY_PROVISION_LEN {}", blob.len());
    let _ = writeln!(text, "static const unsigned char sealway_provision[SEALWAY_PROVISION_LEN] = {{");
    for row in blob.chunks(16) {
        text.push_str("   ");
        for octet in row {
            let _ = write!(text, " 0x{octet:02x},");
        }
        text.push('\n');
    }
    text.push_str("};\n");
    text
}

fn code(label: &str) -> Result<QrCode, Failure> {
    QrCode::with_error_correction_level(label, EcLevel::M)
        .map_err(|error| Failure::failed(format!("the label cannot be drawn: {error}")))
}

fn drawn(label: &str) -> Result<String, Failure> {
    Ok(code(label)?.render::<Dense1x2>().quiet_zone(true).build())
}

/// A label to be printed: code, name, and the first digits of the identity for people who compare.
fn svg(name: &str, device: &str, label: &str) -> Result<String, Failure> {
    let code = code(label)?;
    let width = code.width();
    let mut path = String::new();
    for (index, color) in code.to_colors().into_iter().enumerate() {
        if color == qrcode::Color::Dark {
            let _ = write!(path, "M{} {}h1v1h-1z", 4 + index % width, 4 + index / width);
        }
    }
    let (side, height) = (width + 8, width + 16);
    let short = device.get(..16).unwrap_or_default();
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {side} {height}\">\
         <rect width=\"{side}\" height=\"{height}\" fill=\"#fff\"/><path d=\"{path}\"/>\
         <text x=\"4\" y=\"{}\" font-family=\"monospace\" font-size=\"4\">{name}</text>\
         <text x=\"4\" y=\"{}\" font-family=\"monospace\" font-size=\"4\">{short}</text></svg>\n",
        side + 2,
        side + 7,
    ))
}
