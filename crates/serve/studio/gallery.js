// Past jobs with their metadata: again, start from it, delete.

import { get, remove } from './api.js';
import { begin, fault, fill } from './form.js';
import { make, title } from './job.js';

const list = document.getElementById('gallery');
const older = document.getElementById('older');
const dialog = document.getElementById('details');
let last = null;
let present = null;

/** Loads the newest jobs, or with `more` the next page. */
export async function load(more = false) {
  const page = 40;
  const { jobs } = await get(`/v1/gallery?limit=${page}${more && last ? `&before=${last}` : ''}`);
  if (!more) list.replaceChildren();
  last = jobs.at(-1)?.id ?? last;
  older.hidden = jobs.length < page;
  for (const job of jobs) {
    for (const image of job.images) {
      const picture = image.url.endsWith('.png')
        ? make('img', { src: image.url, alt: title(job), loading: 'lazy' })
        : make('audio', { src: image.url, controls: true });
      const button = make('button', { type: 'button', title: title(job) }, picture);
      button.onclick = () => details(job, image);
      list.append(make('li', {}, button));
    }
  }
}

/** Shows a result with its metadata. */
export function details(job, image) {
  present = { job, image };
  const picture = document.getElementById('details-image');
  [picture.src, picture.alt] = [image.url, title(job)];
  const facts = { model: job.model, ...job.request, image: job.request.image?.sha256?.slice(0, 12), known: job.request.known && 'a part of an image', file: image.sha256.slice(0, 12) };
  const text = (value) => (typeof value === 'object' ? JSON.stringify(value) : String(value));
  document.getElementById('details-facts').replaceChildren(
    ...Object.entries(facts).filter(([, value]) => value !== undefined)
      .flatMap(([name, value]) => [make('dt', { textContent: name }), make('dd', { textContent: text(value) })]),
  );
  const download = document.getElementById('download');
  [download.href, download.download] = [image.url, `${image.sha256.slice(0, 12)}.png`];
  dialog.showModal();
}

/** Connects the buttons; `back` shows the settings. */
export function start(back) {
  older.addEventListener('click', () => load(true).catch(fault));
  document.getElementById('again').addEventListener('click', async () => {
    dialog.close();
    await fill(present.job);
    back();
  });
  document.getElementById('from').addEventListener('click', () => {
    dialog.close();
    begin(present.image).catch(fault);
    document.querySelector('#settings details').open = true;
    back();
  });
  document.getElementById('delete').addEventListener('click', async () => {
    dialog.close();
    await remove(`/v1/gallery/${present.job.id}`).catch(fault);
    await load().catch(fault);
  });
}
