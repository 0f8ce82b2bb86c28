/**
 * Pages as they are answered: with room before them for the header of a message (pagestream.ts), which then is sent without another copy of them.
 *
 * Called by the page service of a timeline, which fills them, and by the pagestream protocol, which takes them over.
 */
import { pageSize } from '../limits.ts';

/** Of a pagestream message. */
export const messageHeaderBytes = 16;

/** `count` pages of zeros. */
export function answerPages(count: number): Uint8Array {
  return new Uint8Array(messageHeaderBytes + count * pageSize).subarray(messageHeaderBytes);
}

/** The whole buffer of pages that `answerPages` made, its header not filled yet; null if they stand elsewhere. */
export function messageAround(pages: Uint8Array): Uint8Array<ArrayBuffer> | null {
  const { buffer, byteOffset, length } = pages;
  const isMade = byteOffset === messageHeaderBytes && buffer.byteLength === messageHeaderBytes + length;
  return isMade && buffer instanceof ArrayBuffer ? new Uint8Array(buffer) : null;
}
