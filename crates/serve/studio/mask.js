// The initial image, the paint on it that says what is to be changed, and what is to be done with it.

import { upload } from './api.js';

const form = document.getElementById('settings');
const canvas = document.getElementById('mask');
const note = document.getElementById('begun');
const { task, strength, amount, grain, brush } = form.elements;
/** The painted part, transparent elsewhere, in the size of the image. */
const paint = document.createElement('canvas');
const [shown, marks] = [canvas.getContext('2d'), paint.getContext('2d', { willReadFrequently: true })];
let image = null;
let source = null;
let painted = false;
/** Where the keyboard paints. */
let cursor = null;

// What can be done: its name, the fields that it has, and what has happened to an image that is restored. The noise keeps a
// blur that was measured inexactly from being amplified.
const TASKS = {
  all: { text: 'Change all of it', strength: true },
  part: { text: 'Change the painted part', strength: true, paints: true },
  fill: { text: 'Fill the painted part anew', paints: true },
  smaller: { text: 'Enlarge it', restores: true, amount: ['Times', 2, 8, 1, 4], of: (n) => ({ kind: 'bicubic', factor: n }) },
  blur: { text: 'Remove a blur', restores: true, grain: 1, amount: ['Width of the blur in pixels', 0.2, 5, 0.1, 1.5], of: (n) => ({ kind: 'blur', sigma: n }) },
  jpeg: { text: 'Repair a JPEG', restores: true, amount: ['Quality of the JPEG', 1, 100, 1, 10], of: (n) => ({ kind: 'jpeg', quality: n }) },
  grey: { text: 'Colour it', restores: true, of: () => ({ kind: 'grey' }) },
};

/** Offers what a model can do with an image. */
export function offer(model) {
  const can = Object.entries(TASKS).filter(([, one]) => (one.restores ? model.restores : model.changes));
  const chosen = task.value;
  task.replaceChildren(...can.map(([name, one]) => new Option(one.text, name, false, name === chosen)));
  tell();
}

function tell() {
  const one = TASKS[task.value] ?? {};
  const part = (name, visible) => { for (const node of form.querySelectorAll(`[data-task=${name}]`)) node.hidden = !visible; };
  part('strength', one.strength);
  part('paints', one.paints);
  part('amount', one.amount);
  part('restores', one.restores);
  if (one.restores && amount.dataset.task !== task.value) {
    const [text, min, max, step, value] = one.amount ?? [''];
    document.getElementById('amount-text').textContent = text;
    if (one.amount) Object.assign(amount, { min, max, step, value });
    grain.value = one.grain ?? 0;
    amount.dataset.task = task.value;
  }
  form.dispatchEvent(new Event('input'));
}
task.addEventListener('change', tell);

function draw() {
  if (!image) return;
  shown.globalAlpha = 1;
  shown.clearRect(0, 0, canvas.width, canvas.height);
  shown.drawImage(image, 0, 0);
  shown.globalAlpha = 0.65;
  shown.drawImage(paint, 0, 0);
  shown.globalAlpha = 1;
  if (!cursor) return;
  shown.strokeStyle = '#e0218a';
  shown.lineWidth = Math.max(1, canvas.width / 128);
  shown.beginPath();
  shown.arc(...cursor, width() / 2, 0, 2 * Math.PI);
  shown.stroke();
}

function clear() {
  painted = false;
  marks.clearRect(0, 0, paint.width, paint.height);
  draw();
}

/** Sets the initial image: a file, `{ sha256, url }`, or none. */
export async function begin(from) {
  [source, cursor] = [from ?? null, null];
  note.hidden = !source;
  if (!source) return;
  image = new Image();
  image.src = source.url ?? URL.createObjectURL(source);
  await image.decode();
  for (const one of [canvas, paint]) [one.width, one.height] = [image.naturalWidth, image.naturalHeight];
  clear();
}

/** The width of the brush in pixels of the image. */
const width = () => Math.max(1, canvas.width * Number(brush.value) / 100);

let last = null;
function stroke(at, erases) {
  marks.globalCompositeOperation = erases ? 'destination-out' : 'source-over';
  marks.strokeStyle = '#2b5cff';
  marks.lineCap = 'round';
  marks.lineWidth = width();
  marks.beginPath();
  marks.moveTo(...(last ?? at));
  marks.lineTo(at[0] + 0.01, at[1]);
  marks.stroke();
  [last, painted] = [at, true];
  if (!TASKS[task.value]?.paints) {
    task.value = 'part';
    tell();
  }
  draw();
}

function pointed(event) {
  const box = canvas.getBoundingClientRect();
  const at = [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
  stroke(at, event.shiftKey || event.buttons === 2);
}

canvas.addEventListener('pointerdown', (event) => {
  canvas.setPointerCapture(event.pointerId);
  [last, cursor] = [null, null];
  pointed(event);
});
canvas.addEventListener('pointermove', (event) => { if (event.buttons) pointed(event); });
canvas.addEventListener('contextmenu', (event) => event.preventDefault());
canvas.addEventListener('keydown', (event) => {
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!image || (!move && event.key !== ' ')) return;
  event.preventDefault();
  cursor ??= [canvas.width / 2, canvas.height / 2];
  last = null;
  if (move) {
    const inside = (v, most) => Math.min(Math.max(v, 0), most);
    cursor = [inside(cursor[0] + move[0] * width() / 2, canvas.width), inside(cursor[1] + move[1] * width() / 2, canvas.height)];
    draw();
  } else stroke(cursor, event.shiftKey);
});
canvas.addEventListener('blur', () => {
  cursor = null;
  draw();
});
document.getElementById('clear-mask').addEventListener('click', clear);

async function mask() {
  const { data, width: wide, height: high } = marks.getImageData(0, 0, paint.width, paint.height);
  // White is changed, black is kept. Soft borders of the brush become sharp.
  const mask = new ImageData(wide, high);
  let any = false;
  for (let i = 0; i < data.length; i += 4) {
    const changed = data[i + 3] > 127;
    mask.data.fill(changed ? 255 : 0, i, i + 3);
    mask.data[i + 3] = 255;
    any ||= changed;
  }
  if (!painted || !any) throw new Error('Paint the part of the image that is to be changed.');
  const page = new OffscreenCanvas(wide, high);
  page.getContext('2d').putImageData(mask, 0, 0);
  return { files: [{ sha256: await upload(await page.convertToBlob({ type: 'image/png' })) }] };
}

/** The fields of a request of this model for the image and the paint. Uploads what the server does not have. */
export async function fields(model) {
  if (!source) {
    if (model.enlarges) throw new Error('This model enlarges an image: choose one.');
    if (model.animates) throw new Error('This model makes a clip of an image: choose one.');
    return {};
  }
  if (model.enlarges || model.animates || model.changes) {
    const file = { sha256: source.sha256 ??= await upload(source) };
    const one = TASKS[task.value];
    if (model.enlarges || model.animates) return { image: file };
    if (one.restores) {
      return { known: { image: file, degradations: [one.of(Number(amount.value))], noise: Number(grain.value) } };
    }
    if (!one.paints) return { image: file, strength: Number(strength.value) };
    const known = { image: file, mask: await mask() };
    return one.strength && Number(strength.value) < 1 ? { known, strength: Number(strength.value) } : { known };
  }
  throw new Error('This model does not start from an image: remove it.');
}
