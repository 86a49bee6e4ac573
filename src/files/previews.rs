//! Previews of images, in the sizes that PocketBase has: `WxH` (cropped around the centre), `WxHt` (from the top), `WxHb` (from the bottom), `WxHf`
//! (whole, within the size), `0xH` and `Wx0`.
//!
//! A preview is made on a blocking thread when it is first asked for, at most [`MAX_AT_ONCE`] at once, and kept beside its content; the sweeper removes
//! it with that. Whatever is no image, or too large, or cannot be decoded, has none: its reader gets the original.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Cursor};
use std::time::Duration;

use image::imageops::{self, FilterType};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::content::Contents;
use super::{AttachedFile, ContentHash, Files, FilesError, blocking};

/// Previews that are made at once.
pub(super) const MAX_AT_ONCE: usize = 2;
/// The most pixels of an image that previews are made of, and those of a preview: a small file may decode to any number of them.
const MAX_PIXELS: u64 = 24_000_000;
/// The longest side.
const MAX_SIDE: u32 = 20_000;
/// The most pixels between the two steps of a resize: lines of the image's width, and as many as the preview has. They take 16 bytes each.
const MAX_STEP_PIXELS: u64 = 4_000_000;
/// Bytes of a pixel: decoded, and between the steps.
const PIXEL_BYTES: u64 = 4;
const STEP_PIXEL_BYTES: u64 = 16;
/// The largest preview in bytes.
const MAX_BYTES: u64 = 16 << 20;
/// The longest file that is decoded, in bytes.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// The wait for others that are made.
const TURN_WAIT: Duration = Duration::from_secs(10);

/// A part of an image that fills a preview of another shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Centre,
    Top,
    Bottom,
    /// All of it, within the size.
    Whole,
}

/// The size of a preview. One side of 0 follows from the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreviewSize {
    width: u32,
    height: u32,
    fit: Fit,
}

/// A preview.
#[derive(Debug)]
pub struct Preview {
    /// The image.
    pub bytes: Vec<u8>,
    /// Its media type.
    pub mime_type: &'static str,
}

impl PreviewSize {
    /// Reads `100x100`, `100x50t`, `0x50`. `None`: it is no size.
    pub fn parse(text: &str) -> Option<Self> {
        let (fit, sides) = match text.as_bytes().last()? {
            b't' => (Fit::Top, text.strip_suffix('t')?),
            b'b' => (Fit::Bottom, text.strip_suffix('b')?),
            b'f' => (Fit::Whole, text.strip_suffix('f')?),
            _ => (Fit::Centre, text),
        };
        let (width, height) = sides.split_once('x')?;
        let side = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<u32>().ok().filter(|side| *side <= MAX_SIDE),
            false => None,
        };
        let (width, height) = (side(width)?, side(height)?);
        let is_one = (width, height) != (0, 0) && u64::from(width) * u64::from(height) <= MAX_PIXELS;
        is_one.then_some(Self { width, height, fit })
    }

    /// The part of an image that fills it, and the size of that part in it. `None`: it would be too large.
    fn placed(self, width: u32, height: u32) -> Option<(Part, u32, u32)> {
        let whole = Part { x: 0, y: 0, width, height };
        let scaled = |side: u32, by: u32, of: u32| {
            let side = (u64::from(side) * u64::from(by)).div_ceil(u64::from(of.max(1)));
            u32::try_from(side.max(1)).ok()
        };
        let (part, to_width, to_height) = match (self.width, self.height, self.fit) {
            (0, to, _) => (whole, scaled(width, to, height)?, to),
            (to, 0, _) => (whole, to, scaled(height, to, width)?),
            // Never larger than it is.
            (to_width, to_height, Fit::Whole) if width <= to_width && height <= to_height => {
                (whole, width, height)
            }
            (to_width, to_height, Fit::Whole) => {
                match u64::from(width) * u64::from(to_height) > u64::from(height) * u64::from(to_width) {
                    true => (whole, to_width, scaled(height, to_width, width)?.min(to_height)),
                    false => (whole, scaled(width, to_height, height)?.min(to_width), to_height),
                }
            }
            (to_width, to_height, fit) => {
                let is_wider =
                    u64::from(width) * u64::from(to_height) > u64::from(height) * u64::from(to_width);
                let part = match is_wider {
                    true => {
                        let kept = scaled(height, to_width, to_height)?.min(width);
                        Part { x: (width - kept) / 2, y: 0, width: kept, height }
                    }
                    false => {
                        let kept = scaled(width, to_height, to_width)?.min(height);
                        let y = match fit {
                            Fit::Top => 0,
                            Fit::Bottom => height - kept,
                            Fit::Centre | Fit::Whole => (height - kept) / 2,
                        };
                        Part { x: 0, y, width, height: kept }
                    }
                };
                (part, to_width, to_height)
            }
        };
        let pixels = u64::from(to_width) * u64::from(to_height);
        let step = u64::from(part.width) * u64::from(to_height);
        (pixels <= MAX_PIXELS && step <= MAX_STEP_PIXELS).then_some((part, to_width, to_height))
    }
}

impl fmt::Display for PreviewSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fit = match self.fit {
            Fit::Centre => "",
            Fit::Top => "t",
            Fit::Bottom => "b",
            Fit::Whole => "f",
        };
        write!(f, "{}x{}{fit}", self.width, self.height)
    }
}

/// A part of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    x: u32,
    y: u32,
    width: u32,
    height: u32,
}

/// The formats of an image of this type, and of its previews.
fn formats(mime_type: &str) -> Option<(ImageFormat, ImageFormat)> {
    match mime_type {
        "image/png" => Some((ImageFormat::Png, ImageFormat::Png)),
        "image/jpeg" => Some((ImageFormat::Jpeg, ImageFormat::Jpeg)),
        "image/gif" => Some((ImageFormat::Gif, ImageFormat::Gif)),
        // As PocketBase has them.
        "image/webp" => Some((ImageFormat::WebP, ImageFormat::Png)),
        _ => None,
    }
}

impl Files {
    /// The preview of an attached file. `admit` gets the bytes of memory that it takes to make it; what it returns is held meanwhile. `None`: there is
    /// none, and the original stands for it.
    pub async fn preview<P: Send + 'static>(
        &self,
        file: &AttachedFile,
        size: PreviewSize,
        admit: impl FnOnce(u64) -> Option<P> + Send + 'static,
    ) -> Option<Preview> {
        let (from, to) = formats(&file.mime_type).filter(|_| file.size <= MAX_FILE_BYTES)?;
        let (hash, kind) = (file.sha256, size.to_string());
        let mime_type = to.to_mime_type();
        if let Some(bytes) = self.kept_preview(hash, &kind).await {
            return Some(Preview { bytes, mime_type });
        }
        let waiting = std::sync::Arc::clone(&self.inner.previews).acquire_owned();
        let turn = tokio::time::timeout(TURN_WAIT, waiting).await.ok()?.ok()?;
        // Another request may have made it meanwhile.
        if let Some(bytes) = self.kept_preview(hash, &kind).await {
            return Some(Preview { bytes, mime_type });
        }
        let content = self.open_attached(file).await.ok()?;
        let contents = self.inner.contents.clone();
        // The turn ends with the work, not with the request.
        let made = blocking(move || {
            let _turn = turn;
            let Some(bytes) = make(content, from, to, size, admit) else { return Ok(None) };
            keep(&contents, &hash, &kind, &bytes);
            Ok(Some(bytes))
        });
        match made.await {
            Ok(made) => made.map(|bytes| Preview { bytes, mime_type }),
            Err(error) => {
                tracing::warn!(error = error.with_sources(), "no preview of an image could be made");
                None
            }
        }
    }

    async fn kept_preview(&self, hash: ContentHash, kind: &str) -> Option<Vec<u8>> {
        let (contents, kind) = (self.inner.contents.clone(), kind.to_owned());
        blocking(move || Ok(contents.preview(&hash, &kind, MAX_BYTES)?)).await.ok().flatten()
    }
}

/// Keeps a preview, unless the disk has no room for it: then it is made again.
fn keep(contents: &Contents, hash: &ContentHash, kind: &str, bytes: &[u8]) {
    match contents.keep_preview(hash, kind, bytes) {
        Ok(()) | Err(FilesError::DiskFull) => {}
        Err(error) => tracing::warn!(error = error.with_sources(), "a preview cannot be kept"),
    }
}

/// Makes a preview. `None`: the content is no such image, or too large.
fn make<P>(
    content: File,
    from: ImageFormat,
    to: ImageFormat,
    size: PreviewSize,
    admit: impl FnOnce(u64) -> Option<P>,
) -> Option<Vec<u8>> {
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MAX_SIDE), Some(MAX_SIDE));
    limits.max_alloc = Some(MAX_PIXELS * PIXEL_BYTES * 2);
    let mut reader = ImageReader::with_format(BufReader::new(content), from);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().ok()?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > MAX_PIXELS || decoder.total_bytes() > MAX_PIXELS * PIXEL_BYTES * 2 {
        return None;
    }
    let orientation = decoder.orientation().ok()?;
    let turns = matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    );
    let (width, height) = if turns { (height, width) } else { (width, height) };
    let (part, to_width, to_height) = size.placed(width, height)?;
    let color = decoder.color_type();
    let converted =
        if matches!(color, ColorType::Rgb8 | ColorType::Rgba8) { 0 } else { pixels * PIXEL_BYTES };
    let turned = if turns { decoder.total_bytes() } else { 0 };
    let step = u64::from(part.width) * u64::from(to_height) * STEP_PIXEL_BYTES;
    let made = u64::from(to_width) * u64::from(to_height) * PIXEL_BYTES;
    let _memory = admit(decoder.total_bytes() + converted.max(turned) + step + made)?;
    let mut image = DynamicImage::from_decoder(decoder).ok()?;
    image.apply_orientation(orientation);
    let Part { x, y, width, height } = part;
    let preview = match color.has_alpha() {
        true => {
            let image = image.into_rgba8();
            let part = imageops::crop_imm(&image, x, y, width, height);
            DynamicImage::from(imageops::resize(&*part, to_width, to_height, FilterType::Triangle))
        }
        false => {
            let image = image.into_rgb8();
            let part = imageops::crop_imm(&image, x, y, width, height);
            DynamicImage::from(imageops::resize(&*part, to_width, to_height, FilterType::Triangle))
        }
    };
    let mut bytes = Cursor::new(Vec::new());
    preview.write_to(&mut bytes, to).ok()?;
    Some(bytes.into_inner()).filter(|bytes| bytes.len() as u64 <= MAX_BYTES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(text: &str) -> PreviewSize {
        PreviewSize::parse(text).unwrap()
    }

    #[test]
    fn a_size_is_read_and_written() {
        for text in ["100x100", "20x10t", "20x10b", "20x10f", "0x50", "50x0", "1x1"] {
            assert_eq!(size(text).to_string(), text);
        }
        for bad in [
            "",
            "x",
            "100",
            "0x0",
            "100x",
            "x100",
            "-1x5",
            "+1x5",
            "100x100z",
            "1 x1",
            "99999x1",
            "20000x20000",
            "100x100tt",
            "\u{e9}x1",
        ] {
            assert_eq!(PreviewSize::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_part_of_an_image_has_the_shape_of_the_preview() {
        let placed = |text: &str, width, height| {
            let (part, to_width, to_height) = size(text).placed(width, height).unwrap();
            ((part.x, part.y, part.width, part.height), to_width, to_height)
        };
        assert_eq!(placed("100x100", 400, 200), ((100, 0, 200, 200), 100, 100));
        assert_eq!(placed("100x100", 200, 400), ((0, 100, 200, 200), 100, 100));
        assert_eq!(placed("100x100t", 200, 400), ((0, 0, 200, 200), 100, 100));
        assert_eq!(placed("100x100b", 200, 400), ((0, 200, 200, 200), 100, 100));
        assert_eq!(placed("100x100f", 400, 200), ((0, 0, 400, 200), 100, 50));
        assert_eq!(placed("100x100f", 40, 20), ((0, 0, 40, 20), 40, 20));
        assert_eq!(placed("0x50", 400, 200), ((0, 0, 400, 200), 100, 50));
        assert_eq!(placed("50x0", 400, 200), ((0, 0, 400, 200), 50, 25));
        assert_eq!(placed("20x10", 1, 1), ((0, 0, 1, 1), 20, 10));
        // It would be 20,000 pixels high for each of its 1,000 columns.
        assert_eq!(size("1000x0").placed(1, 20_000), None);
    }

    proptest! {
        #[test]
        fn every_part_lies_within_its_image(text in "[0-9]{1,4}x[0-9]{1,4}[tbf]?", width in 1..5_000_u32, height in 1..5_000_u32) {
            let placed = PreviewSize::parse(&text).and_then(|size| size.placed(width, height));
            if let Some((part, to_width, to_height)) = placed {
                prop_assert!(part.width > 0 && part.height > 0 && to_width > 0 && to_height > 0);
                prop_assert!(part.x + part.width <= width && part.y + part.height <= height);
            }
        }
    }
}
