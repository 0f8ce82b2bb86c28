/** Changes to one message of the WAL's two protocols, half of them under a header that fits again, so that they get past it. */
import { crc32c } from '../../engine/crc32c.ts';
import type { SeededRandom } from '../support/seeded-random.ts';

const headerBytes = 12;
/** What is at the edge of a term or an LSN. */
const edges = [
  0,
  1,
  7,
  8,
  0x1000028,
  0x100_0000,
  2 ** 32 - 1,
  2 ** 32,
  2 ** 40,
  2 ** 52,
  2 ** 53 - 2,
  2 ** 53 - 1,
  2 ** 53,
];

export function mutate(message: Uint8Array, random: SeededRandom): Uint8Array {
  switch (random.below(9)) {
    case 0:
      return flipped(message, random, 0);
    case 1:
      return message.slice(0, random.below(message.length));
    case 2:
      return inserted(message, random, random.below(message.length + 1));
    case 3: {
      const bytes = new Uint8Array(random.below(200));
      random.fill(bytes);
      return random.chance(0.5) ? bytes : seal(bytes);
    }
    case 4: {
      const tagged = message.slice();
      tagged[random.below(2)] = random.below(256);
      return seal(tagged);
    }
    case 5:
      return seal(message.slice(0, headerBytes + random.below(message.length - headerBytes + 1)));
    case 6:
      return seal(inserted(message, random, headerBytes + random.below(message.length - headerBytes + 1)));
    case 7:
      return message.length > headerBytes ? seal(flipped(message, random, headerBytes)) : message;
    default:
      return seal(replaced(message, random));
  }
}

/** One to three bits, from `start` on; mostly where the fields are. */
function flipped(message: Uint8Array, random: SeededRandom, start: number): Uint8Array {
  const out = message.slice();
  const length = random.chance(0.7) ? Math.min(out.length - start, 100) : out.length - start;
  for (let i = random.below(3); i >= 0; i--) out[start + random.below(length)]! ^= 1 << random.below(8);
  return out;
}

function inserted(message: Uint8Array, random: SeededRandom, at: number): Uint8Array {
  const more = new Uint8Array(1 + random.below(24));
  if (random.chance(0.5)) random.fill(more);
  const out = new Uint8Array(message.length + more.length);
  out.set(message.subarray(0, at));
  out.set(more, at);
  out.set(message.subarray(at), at + more.length);
  return out;
}

/** A number of 8 bytes: an edge, or near what it was. */
function replaced(message: Uint8Array, random: SeededRandom): Uint8Array {
  const out = message.slice();
  const places = Math.floor((Math.min(out.length, 120) - headerBytes) / 4) - 1;
  if (places <= 0) return out;
  const view = new DataView(out.buffer);
  const at = headerBytes + 4 * random.below(places);
  const step = random.pick([1, 4, 8, 40, 8192]) * (random.chance(0.5) ? 1 : -1);
  const value = random.chance(0.5) ? BigInt(random.pick(edges)) : view.getBigUint64(at, true) + BigInt(step);
  view.setBigUint64(at, value, true);
  return out;
}

/** Makes length and checksum of a message's header fit its body again. */
export function seal(message: Uint8Array): Uint8Array {
  if (message.length < headerBytes) return message;
  const view = new DataView(message.buffer, message.byteOffset);
  view.setUint32(4, message.length - headerBytes, true);
  view.setUint32(8, crc32c(message, headerBytes, message.length, crc32c(message, 0, 8)), true);
  return message;
}
