/**
 * Puts the reasons of failed reads into the errors that the backend sends to a client, as their DETAIL (smgr-plugin/error-detail.ts).
 *
 * Step on the path: the backend's send -> this -> out ring. PostgreSQL cuts what it sends where its buffer ends, so messages are followed by their
 * lengths; an error is held back until all of it is here, everything else passes at once.
 */
import { concatBytes } from '../../engine/bytes.ts';
import { withDetail } from '../../smgr-plugin/error-detail.ts';

const typeErrorResponse = 0x45;
/** Type and length. */
const headerBytes = 5;

export class ErrorDetails {
  /** Why reads have failed that the present statement may be about; null: none did. */
  readonly #reason: () => string | null;
  readonly #forward: (bytes: Uint8Array, start: number, end: number) => void;
  /** Of the message under way. */
  #headerSeen = 0;
  #length = 0;
  #bodyLeft = 0;
  #held: Uint8Array[] | null = null;

  constructor(reason: () => string | null, forward: (bytes: Uint8Array, start: number, end: number) => void) {
    this.#reason = reason;
    this.#forward = forward;
  }

  push(bytes: Uint8Array, start: number, end: number): void {
    let passed = start;
    for (let at = start; at < end; ) {
      if (this.#headerSeen === 0 && bytes[at] === typeErrorResponse && this.#reason() !== null) {
        if (at > passed) this.#forward(bytes, passed, at);
        this.#held = [];
      }
      const from = at;
      if (this.#headerSeen < headerBytes) this.#takeHeader(bytes[at++]!);
      else {
        const count = Math.min(this.#bodyLeft, end - at);
        this.#bodyLeft -= count;
        at += count;
      }
      // The backend goes on to use this memory.
      this.#held?.push(new Uint8Array(bytes.subarray(from, at)));
      if (this.#headerSeen < headerBytes || this.#bodyLeft > 0) continue;
      this.#headerSeen = 0;
      if (this.#held === null) continue;
      const whole = withDetail(concatBytes(this.#held), this.#reason() ?? '');
      this.#held = null;
      this.#forward(whole, 0, whole.length);
      passed = at;
    }
    if (this.#held === null && passed < end) this.#forward(bytes, passed, end);
  }

  #takeHeader(byte: number): void {
    // Behind the type comes the length, which counts itself.
    this.#length = this.#headerSeen === 0 ? 0 : ((this.#length << 8) | byte) >>> 0;
    this.#headerSeen++;
    this.#bodyLeft = this.#length - 4;
  }
}
