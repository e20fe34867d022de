// Past jobs with their metadata: again, start from it, delete.

import { get, remove } from './api.js';
import { follow, follows } from './control.js';
import { begin, enlarger, fault, fill } from './form.js';
import { make, tile, title } from './job.js';

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
    for (const image of job.images) list.append(make('li', {}, tile(job, image, title(job))));
  }
}

/** Shows a result with its metadata. */
export function details(job, image) {
  present = { job, image };
  const [picture, sound] = [document.getElementById('details-image'), document.getElementById('details-sound')];
  const sounds = image.url.endsWith('.wav');
  [picture.hidden, sound.hidden] = [sounds, !sounds];
  [sound.src, picture.src, picture.alt] = sounds ? [image.url, '', ''] : ['', image.url, title(job)];
  if (!sounds) sound.removeAttribute('src');
  const { image: begun, known, controls, ...request } = job.request;
  const facts = {
    model: job.model, ...request, image: begun?.sha256.slice(0, 12), changed: known && changed(known),
    controls: controls?.map(followed).join(', '), file: image.sha256.slice(0, 12),
  };
  const text = (value) => (typeof value === 'object' ? JSON.stringify(value) : String(value));
  document.getElementById('details-facts').replaceChildren(
    ...Object.entries(facts).filter(([, value]) => value !== undefined)
      .flatMap(([name, value]) => [make('dt', { textContent: name }), make('dd', { textContent: text(value) })]),
  );
  const download = document.getElementById('download');
  [download.href, download.download] = [image.url, image.sha256.slice(0, 12) + image.url.slice(image.url.lastIndexOf('.'))];
  const larger = document.getElementById('enlarge');
  larger.textContent = `Enlarge ${enlarger()?.enlarges} times`;
  const offer = (still) => {
    document.getElementById('from').hidden = !still;
    document.getElementById('follow').hidden = !still || !follows();
    larger.hidden = !still || !enlarger();
  };
  offer(false);
  // Clips are images as well, but no model starts from one.
  if (!sounds) moves(image.url).then((clip) => { if (present.image === image) offer(!clip); }, fault);
  dialog.showModal();
}

/** Whether a PNG is a clip: its second chunk says so. */
async function moves(url) {
  const bytes = new Uint8Array(await (await fetch(url)).arrayBuffer());
  return new TextDecoder('latin1').decode(bytes.subarray(0, 64)).includes('acTL');
}

/** What was done with an image, in a few words. */
function changed({ image, mask, degradations = [] }) {
  const what = degradations.map(({ kind, ...more }) => [kind, ...Object.values(more)].join(' ')).join(', ');
  return `${what || (mask ? 'a part' : 'all')} of ${image.sha256.slice(0, 12)}`;
}

/** What a ControlNet followed, in a few words. */
function followed({ image, net, canny, scale = 1 }) {
  const name = net?.path?.split('/').at(-1);
  return [name && `${name}:`, canny && 'edges of', image.sha256.slice(0, 12), scale !== 1 && `× ${scale}`].filter(Boolean).join(' ');
}

/** Connects the buttons; `back` shows the settings, `run` makes a job. */
export function start(back, run) {
  older.addEventListener('click', () => load(true).catch(fault));
  document.getElementById('again').addEventListener('click', async () => {
    dialog.close();
    fault();
    await fill(present.job).catch(fault);
    back();
  });
  document.getElementById('from').addEventListener('click', () => {
    dialog.close();
    begin(present.image).catch(fault);
    document.getElementById('with-image').open = true;
    back();
  });
  document.getElementById('follow').addEventListener('click', () => {
    dialog.close();
    follow(present.image);
    back();
  });
  document.getElementById('enlarge').addEventListener('click', () => {
    dialog.close();
    back();
    run({ model: enlarger().id, image: { sha256: present.image.sha256 } }).catch(fault);
  });
  // A closed dialog is silent.
  dialog.addEventListener('close', () => document.getElementById('details-sound').pause());
  document.getElementById('delete').addEventListener('click', async () => {
    dialog.close();
    await remove(`/v1/gallery/${present.job.id}`).catch(fault);
    await load().catch(fault);
  });
}
