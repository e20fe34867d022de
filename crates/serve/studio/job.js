// A job while it runs: progress, live previews, a filmstrip, its results.

import { follow, remove } from './api.js';
import { details } from './gallery.js';

const list = document.getElementById('jobs');
/** Jobs that have not ended, newest last. */
const running = [];

export function make(name, attributes = {}, ...children) {
  const node = Object.assign(document.createElement(name), attributes);
  node.append(...children);
  return node;
}

export function say(text) {
  document.getElementById('status').textContent = text;
}

/** What a request is about, in a few words. */
export function title({ request, model }) {
  const { prompt, known, classes } = request;
  if (known && !prompt) return known.degradations ? 'Restored image' : 'Changed image';
  return [prompt].flat()[0] || (classes ? `class ${classes.join(', ')}` : model);
}

/** A result for people: an image or clip, or a sound to be played. */
export function player(image, attributes) {
  return image.url.endsWith('.wav') ? make('audio', { src: image.url, controls: true, ariaLabel: attributes.alt }) : make('img', { src: image.url, ...attributes });
}

/** A result that opens its details. */
export function tile(job, image, text) {
  const open = () => details(job, image);
  const one = player(image, { alt: text, loading: 'lazy' });
  if (one.tagName === 'IMG') return make('button', { type: 'button', title: title(job), onclick: open }, one);
  const more = make('button', { type: 'button', className: 'quiet', textContent: 'Details', ariaLabel: `Details of ${text}`, onclick: open });
  return make('div', { className: 'sound' }, make('span', { textContent: text }), one, more);
}

/** Shows the images of a job as they are denoised. Calls `on` with the result. */
export function images(job, place, { strip, on } = {}) {
  const pictures = Array.from({ length: job.request.count ?? 1 }, (_, i) => {
    const img = make('img', { alt: `Image ${i + 1}, not yet there` });
    place.append(make('button', { type: 'button', disabled: true, ariaLabel: `Details of image ${i + 1}` }, img));
    return img;
  });
  return (name, data) => {
    const picture = pictures[data.image];
    if (name === 'preview' && picture && !picture.dataset.done) {
      picture.src = `data:image/png;base64,${data.b64_json}`;
      picture.alt = `Image ${data.image + 1} after step ${data.step}`;
      if (strip && data.image === 0 && strip.children.length < 40) {
        strip.append(make('img', { src: picture.src, alt: `Step ${data.step}`, title: `Step ${data.step}` }));
      }
    } else if (name === 'image' || name === 'finished') {
      for (const image of data.images ?? [data]) {
        const shown = pictures[image.image];
        if (!shown) continue;
        const own = { ...job, images: [image] };
        if (image.url.endsWith('.wav')) {
          const sound = tile(own, image, `Sound ${image.image + 1}: ${title(job)}`);
          shown.parentElement?.replaceWith(sound);
          continue;
        }
        [shown.src, shown.alt, shown.dataset.done] = [image.url, `Image ${image.image + 1}`, 'yes'];
        shown.parentElement.disabled = false;
        shown.parentElement.onclick = () => details(own, image);
      }
      if (name === 'finished') on?.(data);
    }
  };
}

/** Adds a card for a job and follows it to its end. */
export async function show(job) {
  const state = make('span', { textContent: 'queued' });
  const bar = make('progress', { max: 1, value: 0, ariaLabel: 'Progress' });
  const cancel = make('button', { type: 'button', className: 'quiet', textContent: 'Cancel' });
  const [place, strip] = [make('div', { className: 'images' }), make('div', { className: 'strip' })];
  const card = make('li', {}, make('div', { className: 'top' }, make('strong', { textContent: title(job) }), state, cancel), bar, place, strip);
  list.prepend(card);
  running.push(job.id);
  cancel.onclick = () => remove(`/v1/jobs/${job.id}`).catch(() => {});
  const update = images(job, place, { strip });
  await follow(job.id, (name, data) => {
    update(name, data);
    if (name === 'step') {
      [bar.max, bar.value] = [data.steps || 1, data.step];
      const left = data.seconds_left === null ? '' : ` · ${data.seconds_left.toFixed(1)} s left`;
      state.textContent = `step ${data.step} of ${data.steps}${left}`;
    } else if (name === 'queued') {
      state.textContent = data.position ? `queued behind ${data.position}` : 'queued';
    }
    if (['finished', 'failed', 'cancelled'].includes(name)) {
      state.textContent = data.error ? data.error.message : name;
      say(`${title(job)}: ${state.textContent}`);
      bar.remove();
      cancel.remove();
    }
  });
  running.splice(running.indexOf(job.id), 1);
}

/** Cancels the newest job that runs. */
export function cancelNewest() {
  const id = running.at(-1);
  if (id) remove(`/v1/jobs/${id}`).catch(() => {});
}
