/**
 * Reading and writing the little-endian fields of protocol messages.
 *
 * `ByteReader` is for bytes that nobody has checked: every read is bounds-checked and throws `invalid` with the name of what is
 * being read and the offset, and `end()` refuses bytes that are left over. `ByteWriter` fills a buffer of a size that its caller
 * computed: writing past it, or less than it, is a bug.
 */
import { assert } from '../assert.ts';
import { PageliteError } from '../errors.ts';
import type { Lsn } from '../model/lsn.ts';
import type { ForkNumber, RelTag } from '../model/rel.ts';

const high = 4294967296;
const utf8 = new TextDecoder('utf-8', { fatal: true });

export class ByteReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #what: string;
  #position: number;

  /** Reads `bytes` from `start` on. `what` names the message in errors. */
  constructor(bytes: Uint8Array, what: string, start = 0) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#what = what;
    this.#position = start;
  }

  get remaining(): number {
    return this.#bytes.length - this.#position;
  }

  u8(): number {
    return this.#view.getUint8(this.#advance(1));
  }

  u16(): number {
    return this.#view.getUint16(this.#advance(2), true);
  }

  u32(): number {
    return this.#view.getUint32(this.#advance(4), true);
  }

  /** An unsigned 64-bit field that must fit a JavaScript number. */
  u53(): number {
    const at = this.#advance(8);
    const value = this.#view.getUint32(at + 4, true) * high + this.#view.getUint32(at, true);
    if (value > Number.MAX_SAFE_INTEGER) throw this.invalid(`a number past 2^53 at byte ${at}`);
    return value;
  }

  u64(): bigint {
    return this.#view.getBigUint64(this.#advance(8), true);
  }

  lsn(): Lsn {
    return this.u53() as Lsn;
  }

  /** 16 bytes as 32 hex digits. */
  id(): string {
    const at = this.#advance(16);
    let text = '';
    for (let i = 0; i < 16; i++) text += this.#bytes[at + i]!.toString(16).padStart(2, '0');
    return text;
  }

  rel(): RelTag {
    const spc = this.u32();
    const db = this.u32();
    const rel = this.u32();
    const fork = this.u32();
    if (fork > 3) throw this.invalid(`fork number ${fork}`);
    // Keys intern a tablespace in 20 bits (model/key.ts); no other tablespace exists here.
    if (spc >= 1048576) throw this.invalid(`tablespace oid ${spc}`);
    return { spc, db, rel, fork: fork as ForkNumber };
  }

  /** A view of the next `length` bytes: not a copy. */
  bytes(length: number): Uint8Array {
    const at = this.#advance(length);
    return this.#bytes.subarray(at, at + length);
  }

  text(length: number): string {
    const bytes = this.bytes(length);
    try {
      return utf8.decode(bytes);
    } catch {
      throw this.invalid('text that is not UTF-8');
    }
  }

  /** Everything must have been read. */
  end(): void {
    if (this.remaining !== 0) throw this.invalid(`${this.remaining} bytes too many`);
  }

  invalid(problem: string): PageliteError {
    return new PageliteError('invalid', `malformed ${this.#what}: ${problem}`, { message: this.#what });
  }

  #advance(length: number): number {
    const at = this.#position;
    if (length > this.#bytes.length - at) {
      throw this.invalid(`cut short at byte ${this.#bytes.length}: ${length} bytes expected from byte ${at} on`);
    }
    this.#position = at + length;
    return at;
  }
}

export class ByteWriter {
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  #position: number;

  constructor(size: number, start = 0) {
    this.bytes = new Uint8Array(size);
    this.#view = new DataView(this.bytes.buffer);
    this.#position = start;
  }

  u8(value: number): this {
    this.#view.setUint8(this.#advance(1), value);
    return this;
  }

  u16(value: number): this {
    this.#view.setUint16(this.#advance(2), value, true);
    return this;
  }

  u32(value: number): this {
    this.#view.setUint32(this.#advance(4), value, true);
    return this;
  }

  u53(value: number): this {
    assert(Number.isSafeInteger(value) && value >= 0, `not an unsigned integer: ${value}`);
    const at = this.#advance(8);
    const low = value % high;
    this.#view.setUint32(at, low, true);
    this.#view.setUint32(at + 4, (value - low) / high, true);
    return this;
  }

  u64(value: bigint): this {
    this.#view.setBigUint64(this.#advance(8), value, true);
    return this;
  }

  /** 32 hex digits as 16 bytes. */
  id(text: string): this {
    assert(text.length === 32, `not an id: ${text}`);
    const at = this.#advance(16);
    for (let i = 0; i < 16; i++) this.bytes[at + i] = Number.parseInt(text.slice(2 * i, 2 * i + 2), 16);
    return this;
  }

  rel(rel: RelTag): this {
    return this.u32(rel.spc).u32(rel.db).u32(rel.rel).u32(rel.fork);
  }

  put(bytes: Uint8Array): this {
    this.bytes.set(bytes, this.#advance(bytes.length));
    return this;
  }

  /** The buffer, which must be full. */
  finish(): Uint8Array {
    assert(this.#position === this.bytes.length, 'a message is shorter than its size');
    return this.bytes;
  }

  #advance(length: number): number {
    const at = this.#position;
    assert(at + length <= this.bytes.length, 'a message is longer than its size');
    this.#position = at + length;
    return at;
  }
}
