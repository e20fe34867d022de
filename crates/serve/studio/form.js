// The settings: built from what the model takes, read as a request, filled from one.

import { get, stored } from './api.js';
import { controls, fillControls, offer as offerControls } from './control.js';
import { begin as beginWith, fields, offer } from './mask.js';

const form = document.getElementById('settings');
const other = document.getElementById('other');
const field = (name) => form.elements[name];

/** The facts of the selected model. */
export let model = null;
let limits = null;
let models = [];

/** The first model that enlarges images, if there is one. */
export const enlarger = () => models.find((one) => one.enlarges);

function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => new Option(text, value, false, value === chosen)));
}

function show(name, visible) {
  for (const part of document.querySelectorAll(`[data-for=${name}]`)) part.hidden = !visible;
}

function told() {
  for (const range of form.querySelectorAll('input[type=range]')) {
    range.parentElement.querySelector('.value').textContent = range.value;
  }
  const solver = limits?.solvers.find((solver) => solver.name === field('solver').value);
  document.getElementById('solver-about').textContent = solver?.summary ?? '';
  const factor = model?.size && model.result_size ? model.result_size[0] / model.size[0] : 1;
  const sides = [field('width').value, field('height').value].map((side) => side * factor).join(' × ');
  document.getElementById('larger').textContent = factor > 1 ? `The model makes it ${factor} times larger: ${sides} pixels.` : '';
}

/** The number of frames for which a model was made; empty if it does not make clips. */
const frames = ({ medium, size }) => (medium === 'clip' && size?.length === 3 ? size[0] : '');

/** Sets the limits of a model, and its defaults where the settings are not the user's own. */
async function choose(name) {
  model = await get(`/v1/models/${encodeURIComponent(name)}`);
  document.getElementById('about').textContent = model.about;
  show('texts', model.prompts);
  show('classes', model.classes.length > 0);
  show('guided', model.guided);
  show('sized', model.medium === 'image' && !model.fixed_size && !model.enlarges);
  show('clips', model.medium === 'clip' && !model.fixed_size);
  document.getElementById('made').textContent = { audio: 'Sounds', clip: 'Clips' }[model.medium] ?? 'Images';
  show('voices', model.voices.length > 0);
  show('words', model.words.length > 0);
  show('image', model.changes || model.enlarges || model.animates);
  show('changes', model.changes);
  offerControls(model, limits.controlnets);
  document.getElementById('words').textContent = `It can say: ${model.words.join(', ')}.`;
  options(field('voice'), model.voices.map((voice) => [voice, voice]), model.voices[0]);
  offer(model);
  if (model.enlarges || model.animates) document.getElementById('with-image').open = true;
  options(field('class'), [['', 'all in turn'], ...model.classes.map((c) => [String(c.number), c.name])], '');
  const { steps, guidance } = model.defaults;
  field('steps').max = Math.min(limits.steps, Math.max(100, steps));
  field('steps').value = steps;
  field('guidance').value = guidance;
  [other.elements.steps.value, other.elements.guidance.value] = [Math.max(1, Math.round(steps / 2)), guidance];
  other.elements.steps.max = limits.steps;
  const [height, width] = model.size?.slice(-2) ?? ['', ''];
  [field('height').value, field('width').value, field('frames').value] = [height, width, frames(model)];
  told();
}

/** Fills the menus. */
export async function start() {
  limits = await get('/v1/limits');
  models = (await get('/v1/models')).data;
  options(field('model'), models.map((m) => [m.id, m.id]), models[0].id);
  const solvers = [['', 'the model’s own'], ...limits.solvers.map((s) => [s.name, s.name])];
  options(field('solver'), solvers, '');
  options(other.elements.solver, [['', 'the same'], ...solvers.slice(1)], '');
  field('count').max = Math.min(16, limits.count);
  await choose(models[0].id);
  field('model').addEventListener('change', () => choose(field('model').value));
  form.addEventListener('input', told);
  field('image').addEventListener('change', () => begin(field('image').files[0]).catch(fault));
  document.getElementById('drop-image').addEventListener('click', () => begin(null));
  document.getElementById('dice').addEventListener('click', () => {
    field('seed').value = crypto.getRandomValues(new Uint32Array(1))[0];
  });
}

/** Sets the initial image: a file, `{ sha256, url }`, or none. */
export function begin(image) {
  if (!image) field('image').value = '';
  return beginWith(image);
}

/** The request. */
export async function read() {
  const request = {
    model: field('model').value,
    count: Number(field('count').value),
    seed: Number(field('seed').value),
    steps: Number(field('steps').value),
  };
  if (model.prompts) request.prompt = field('prompt').value;
  if (model.guided) request.guidance = Number(field('guidance').value);
  if (model.guided && request.guidance > 1 && field('negative_prompt').value && model.prompts) {
    request.negative_prompt = field('negative_prompt').value;
  }
  if (model.voices.length) request.voice = field('voice').value;
  if (model.classes.length && field('class').value) request.classes = [Number(field('class').value)];
  if (field('solver').value) request.solver = field('solver').value;
  const [height, width] = [Number(field('height').value), Number(field('width').value)];
  const own = model.size ?? [];
  if (model.medium === 'image' && !model.fixed_size && !model.enlarges && height && width && (height !== own[0] || width !== own[1])) {
    request.size = [height, width];
  }
  const length = Number(field('frames').value);
  if (model.medium === 'clip' && !model.fixed_size && length && length !== frames(model)) request.frames = length;
  const begun = await fields(model);
  if (begun.known) {
    // The result of a change has the size of the image, which itself says what it shows.
    delete request.size;
    if (!request.classes && model.null_class !== null) [request.classes, request.guidance] = [[model.null_class], 1];
    if (begun.known.degradations) delete request.solver;
  }
  return { ...request, ...begun, ...(await controls()) };
}

/** The changes of the second settings. */
export function changes() {
  const { steps, guidance, solver } = other.elements;
  const changed = { steps: Number(steps.value) };
  if (model.guided) changed.guidance = Number(guidance.value);
  if (solver.value) changed.solver = solver.value;
  return changed;
}

/** Sets the settings of a job. */
export async function fill(job) {
  const { request } = job;
  if (field('model').value !== job.model) {
    field('model').value = job.model;
    await choose(job.model);
  }
  const set = (name, value) => { if (value !== undefined) field(name).value = value; };
  set('prompt', [request.prompt ?? ''].flat()[0]);
  set('negative_prompt', request.negative_prompt ?? '');
  set('class', request.classes?.length === 1 ? String(request.classes[0]) : '');
  for (const name of ['steps', 'guidance', 'count', 'seed', 'strength', 'voice']) set(name, request[name]);
  set('solver', request.solver ?? '');
  const [height, width] = (request.size ?? model.size ?? []).slice(-2);
  set('frames', request.frames ?? frames(model));
  set('height', height);
  set('width', width);
  // Neither sounds nor clips can be drawn on.
  const image = (model.medium === 'image' || model.animates) && (request.image ?? request.known?.image)?.sha256;
  await begin(image ? await stored(image) : null);
  told();
  await fillControls(request);
}

/** Says what is wrong, or nothing. */
export function fault(error) {
  document.getElementById('fault').textContent = error ? error.message : '';
}
