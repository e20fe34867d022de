// The image that a ControlNet follows.

import { stored, upload } from './api.js';

const form = document.getElementById('settings');
const panel = document.getElementById('with-control');
const { control: chosen, net, control_scale: scale, canny } = form.elements;
const picture = document.getElementById('control-image');
/** Thresholds for edges. */
const EDGES = [100, 200];
let source = null;
/** Whether the model has ControlNets of its own, so that none is named. */
let own = false;

/** Offers the ControlNets that a model can use. */
export function offer(model, nets) {
  own = model.controls > 0;
  const any = own || (model.prompts && nets.length > 0);
  if (any && net.options.length === 0) net.replaceChildren(...nets.map((name) => new Option(name, name)));
  for (const part of form.querySelectorAll('[data-for=nets]')) part.hidden = own;
  panel.hidden = !any;
}

/** Sets the image that is followed: a file, `{ sha256, url }`, or none. */
export function follow(image) {
  source = image ?? null;
  // The field cannot show the name of what is no file of the user.
  if (!(source instanceof File)) chosen.value = '';
  document.getElementById('followed').hidden = !source;
  if (source) {
    picture.src = source.url ?? URL.createObjectURL(source);
    panel.open = true;
  }
}

/** Whether a result can be followed with the present model. */
export const follows = () => !panel.hidden;

/** The field of a request. Uploads what the server does not have. */
export async function controls() {
  if (!source || panel.hidden) return {};
  const control = { image: { sha256: source.sha256 ??= await upload(source) }, scale: Number(scale.value) };
  if (canny.checked) control.canny = EDGES;
  if (!own) control.net = net.value;
  return { controls: [control] };
}

/** Sets the fields as in a request. Says what cannot be set. */
export async function fillControls({ controls: all = [], guess }) {
  const [first] = all;
  follow(first ? await stored(first.image.sha256) : null);
  if (!first) return;
  scale.value = first.scale ?? 1;
  canny.checked = Boolean(first.canny);
  const name = first.net?.path?.split('/').at(-1);
  if (name) net.value = name;
  const edges = first.canny && String(first.canny) !== String(EDGES) && 'the thresholds of the edges';
  const missing = [all.length > 1 && 'further ControlNets', first.range && 'the range of steps', guess && '`guess`', edges].filter(Boolean);
  if (missing.length) throw new Error(`The settings here have no place for ${missing.join(', ')} of that job.`);
}

chosen.addEventListener('change', () => follow(chosen.files[0]));
document.getElementById('drop-control').addEventListener('click', () => follow(null));
