// OpenAI's JavaScript client against a running `tweedie serve`:
//
//     npm install openai@6.49.0 && node openai_client.mjs http://127.0.0.1:7860

import assert from 'node:assert/strict';
import OpenAI, { toFile } from 'openai';

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: 'none', maxRetries: 0 });
const names = (await client.models.list()).data.map((model) => model.id);
assert.deepEqual(names, ['emoji-32', 'emoji-text-64', 'spoken-digits', 'emoji-x4']);

const own = { model: 'emoji-text-64', prompt: 'red heart', n: 2, seed: 7, steps: 6, guidance: 3 };
const made = await client.images.generate(own);
const again = await client.images.generate(own);
assert.deepEqual(made.data.map((image) => image.b64_json), again.data.map((image) => image.b64_json));

const events = [];
const stream = await client.images.generate({ prompt: '', model: 'emoji-32', stream: true, partial_images: 2, steps: 12 });
for await (const event of stream) events.push(event.type);
assert.deepEqual(events, ['image_generation.partial_image', 'image_generation.partial_image', 'image_generation.completed']);

const image = await toFile(Buffer.from(made.data[0].b64_json, 'base64'), 'heart.png', { type: 'image/png' });
const edited = await client.images.edit({ model: 'emoji-text-64', image, prompt: 'blue heart', steps: 8, strength: 0.6 });
assert.equal(Buffer.from(edited.data[0].b64_json, 'base64').subarray(1, 4).toString(), 'PNG');

await assert.rejects(client.images.generate({ model: 'emoji-32', prompt: 'unicorn' }), OpenAI.BadRequestError);
await assert.rejects(client.images.generate({ model: 'none', prompt: '' }), OpenAI.NotFoundError);
console.log('ok');
