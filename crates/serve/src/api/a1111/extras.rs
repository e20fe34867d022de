//! `extra-single-image`: enlarges an image, by a filter or by a model of this server.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Request, State},
};
use image::{DynamicImage, imageops::FilterType};
use serde_json::{Map, Value, json};

use super::{Refusal, Web, tasks};
use crate::{
    Fault,
    api::body,
    asked::Fields,
    auth::Client,
    desk::Offer,
    formats::{decoded, packed, unpacked},
    service::{Draft, Found, Service, blocking},
    waiter::Waiter,
};

/// Filters that enlarge; "None" leaves an image as it is.
pub const FILTERS: [(&str, FilterType); 3] =
    [("None", FilterType::Nearest), ("Lanczos", FilterType::Lanczos3), ("Nearest", FilterType::Nearest)];

/// What enlarges.
enum Upscaler {
    Filter(FilterType),
    Model { name: String, factor: usize },
}

impl Upscaler {
    fn named(offers: &[Offer], name: &str) -> Result<Self, Fault> {
        let is = |own: &str| own.eq_ignore_ascii_case(name);
        if let Some((_, filter)) = FILTERS.iter().find(|(own, _)| is(own)) {
            return Ok(Self::Filter(*filter));
        }
        let models = || offers.iter().filter_map(|offer| Some((&offer.name, offer.enlarges?)));
        if let Some((own, factor)) = models().find(|(own, _)| is(own)) {
            return Ok(Self::Model { name: own.clone(), factor });
        }
        let names = FILTERS.iter().map(|(name, _)| *name).chain(models().map(|(name, _)| name.as_str()));
        let names = names.collect::<Vec<_>>().join(", ");
        Err(Fault::field("upscaler_1", format!("unknown upscaler `{name}`; expected one of {names}")))
    }
}

/// The size of the result.
enum Size {
    Times(f64),
    Sides([usize; 2]),
}

impl Size {
    fn of(fields: &mut Fields) -> Result<Self, Fault> {
        let times = fields.number("upscaling_resize")?.unwrap_or(2.0);
        let sides = [
            fields.whole("upscaling_resize_w", 0, 1 << 15)?,
            fields.whole("upscaling_resize_h", 0, 1 << 15)?,
        ];
        match (fields.whole("resize_mode", 0, 1)?, sides) {
            (Some(1), [Some(width), Some(height)]) => Ok(Self::Sides([width as usize, height as usize])),
            (Some(1), _) => Err(Fault::field("upscaling_resize_w", "expected width and height")),
            _ => Ok(Self::Times(times)),
        }
    }

    /// Width and height of the result for such an image, which may have at most `most` pixels.
    fn of_image(&self, image: &DynamicImage, most: usize) -> Result<[u32; 2], Fault> {
        let [width, height] = match self {
            Self::Sides(sides) => *sides,
            Self::Times(times) => {
                [image.width(), image.height()].map(|side| (f64::from(side) * times).round() as usize)
            }
        };
        if width == 0 || height == 0 || width.saturating_mul(height) > most {
            let reason = format!("{width}x{height} pixels: this server allows 1 to {most}");
            return Err(Fault::field("upscaling_resize", reason));
        }
        // Limits are far below 2³².
        Ok([width, height].map(|side| u32::try_from(side).unwrap_or(u32::MAX)))
    }
}

/// Enlarges an image.
pub async fn extra(
    State(web): State<Web>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let service = &web.service;
    let mut fields = Fields(body::json(request, body::most(service)).await?);
    let image = fields
        .text("image")?
        .ok_or_else(|| Fault::field("image", "missing: expected an image in base 64"))?;
    let bytes = unpacked("image", &image)?;
    let name = fields.text("upscaler_1")?.unwrap_or_else(|| "None".into());
    let upscaler = Upscaler::named(service.desk.offers(), &name)?;
    for field in ["gfpgan_visibility", "codeformer_visibility", "extras_upscaler_2_visibility"] {
        if fields.number(field)?.is_some_and(|value| value != 0.0) {
            return Err(Fault::field(field, "this server does not support it").into());
        }
    }
    let (size, most) = (Size::of(&mut fields)?, service.config.limits.pixels);
    let image = blocking(move || decoded(&bytes)).await??;
    let (large, info) = match upscaler {
        Upscaler::Filter(_) if name.eq_ignore_ascii_case("None") => (image, String::new()),
        Upscaler::Filter(filter) => {
            let [width, height] = size.of_image(&image, most)?;
            (blocking(move || image.resize_exact(width, height, filter)).await?, String::new())
        }
        Upscaler::Model { name, factor } => {
            let sides = size.of_image(&image, most)?;
            let mut large = enlarged(&web, &client, &name, image).await?;
            let mut info = format!("enlarged {factor} times by {name}");
            if [large.width(), large.height()] != sides {
                let [width, height] = sides;
                info += &format!(", then resized to {width}x{height} by Lanczos");
                large = blocking(move || large.resize_exact(width, height, FilterType::Lanczos3)).await?;
            }
            (large, info)
        }
    };
    let png = blocking(move || png_of(&large)).await??;
    Ok(Json(json!({ "html_info": info, "image": packed(&png) })))
}

/// The image made larger by a model, as a job of this client.
async fn enlarged(
    web: &Web,
    client: &Client,
    model: &str,
    image: DynamicImage,
) -> Result<DynamicImage, Fault> {
    let service: &Arc<Service> = &web.service;
    let png = blocking(move || png_of(&image)).await??;
    let image = service.upload(png.into()).await?;
    let mut request = Map::new();
    request.insert("image".into(), json!({ "sha256": image }));
    let draft = Draft { model: Some(model.into()), request, ..Draft::default() };
    let record = match service.submit(&client.0, draft).await?.found {
        Found::Live(live) => {
            tasks::of(&web.tasks).add(&client.0, &live);
            Waiter::new(service, live, true, false).record().await?
        }
        Found::Ended(record) => *record,
    };
    let gone = || Fault::missing("the result was deleted");
    let (_, stored) = record.results.first().ok_or_else(gone)?;
    let path = service.store.result(&stored.sha256, stored.ending).ok_or_else(gone)?;
    blocking(move || decoded(&std::fs::read(path).map_err(|_| gone())?)).await?
}

fn png_of(image: &DynamicImage) -> Result<Vec<u8>, Fault> {
    let mut out = std::io::Cursor::new(Vec::new());
    image.write_to(&mut out, image::ImageFormat::Png).map_err(|e| Fault::internal(e.to_string()))?;
    Ok(out.into_inner())
}
