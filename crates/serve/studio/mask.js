// The initial image, and the paint on it that says what is to be changed.

import { upload } from './api.js';

const canvas = document.getElementById('mask');
const note = document.getElementById('begun');
/** The painted part: white on black, in the size of the image. */
const paint = document.createElement('canvas');
const [shown, marks] = [canvas.getContext('2d'), paint.getContext('2d')];
let image = null;
let source = null;
let painted = false;

function draw() {
  shown.globalAlpha = 1;
  shown.drawImage(image, 0, 0);
  // The paint is red and half transparent.
  const layer = new OffscreenCanvas(paint.width, paint.height).getContext('2d');
  layer.drawImage(paint, 0, 0);
  layer.globalCompositeOperation = 'multiply';
  layer.fillStyle = '#f33';
  layer.fillRect(0, 0, paint.width, paint.height);
  shown.globalCompositeOperation = 'lighter';
  shown.globalAlpha = 0.6;
  shown.drawImage(layer.canvas, 0, 0);
  shown.globalCompositeOperation = 'source-over';
}

function clear() {
  painted = false;
  marks.fillStyle = '#000';
  marks.fillRect(0, 0, paint.width, paint.height);
  draw();
}

/** Sets the initial image: a file, `{ sha256, url }`, or none. */
export async function begin(from) {
  source = from ?? null;
  note.hidden = !source;
  if (!source) return;
  image = new Image();
  image.src = source.url ?? URL.createObjectURL(source);
  await image.decode();
  for (const one of [canvas, paint]) [one.width, one.height] = [image.naturalWidth, image.naturalHeight];
  clear();
}

let last = null;
function stroke(event) {
  const box = canvas.getBoundingClientRect();
  const at = [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
  marks.strokeStyle = '#fff';
  marks.lineCap = 'round';
  marks.lineWidth = Math.max(2, canvas.width / 8);
  marks.beginPath();
  marks.moveTo(...(last ?? at));
  marks.lineTo(at[0] + 0.01, at[1]);
  marks.stroke();
  [last, painted] = [at, true];
  draw();
}

canvas.addEventListener('pointerdown', (event) => {
  canvas.setPointerCapture(event.pointerId);
  last = null;
  stroke(event);
});
canvas.addEventListener('pointermove', (event) => { if (event.buttons) stroke(event); });
document.getElementById('clear-mask').addEventListener('click', clear);

/** The fields of a request for the image and the paint. Uploads what the server does not have. */
export async function fields(strength) {
  if (!source) return {};
  const file = { sha256: source.sha256 ?? (await upload(source)) };
  if (!painted) return { image: file, strength };
  // Soft borders of the brush become sharp.
  const pixels = marks.getImageData(0, 0, paint.width, paint.height);
  for (let i = 0; i < pixels.data.length; i += 4) pixels.data.fill(pixels.data[i] > 127 ? 255 : 0, i, i + 3);
  marks.putImageData(pixels, 0, 0);
  const mask = await new Promise((done) => paint.toBlob(done, 'image/png'));
  return { known: { image: file, mask: { files: [{ sha256: await upload(mask) }] } }, strength: strength < 1 ? strength : undefined };
}
