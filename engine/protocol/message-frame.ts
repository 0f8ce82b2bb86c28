/**
 * The frame that the WAL's two protocols share (protocol/proposer-acceptor.ts, protocol/wal-stream.ts): tag, version, length, checksum.
 *
 *   | bytes  | field    |                                               |
 *   |--------|----------|-----------------------------------------------|
 *   | 0      | tag      | of the protocol                               |
 *   | 1      | version  | of the protocol                               |
 *   | 2..3   | reserved | 0                                             |
 *   | 4..7   | length   | of the body                                   |
 *   | 8..11  | crc32c   | of bytes 0..7 followed by the body            |
 *   | 12..   | body     |                                               |
 *
 * Invariant: this layout, and that of an error's body (JSON), never change, so that two versions can tell each other so.
 */
import { crc32c } from '../crc32c.ts';
import { type ErrorJson, PageliteError } from '../errors.ts';
import { channelMessageBytesMax } from '../limits.ts';
import { ByteReader, ByteWriter } from './byte-codec.ts';

export interface MessageFrame {
  /** Name of the protocol, for errors. */
  readonly what: string;
  readonly version: number;
  /** Errors of any version are read. */
  readonly errorTag: number;
}

export const messageHeaderBytes = 12;
const utf8 = new TextEncoder();

export function beginMessage(bodyBytes: number): ByteWriter {
  return new ByteWriter(messageHeaderBytes + bodyBytes, messageHeaderBytes);
}

/** Fills the header of a message whose body is complete. */
export function sealMessage(frame: MessageFrame, tag: number, body: ByteWriter): Uint8Array {
  const message = body.finish();
  const view = new DataView(message.buffer);
  view.setUint8(0, tag);
  view.setUint8(1, frame.version);
  view.setUint32(4, message.length - messageHeaderBytes, true);
  view.setUint32(8, checksum(message), true);
  return message;
}

/** Checks everything about a message that does not depend on its tag. Throws `invalid` or `corrupt`. */
export function openMessage(frame: MessageFrame, message: Uint8Array): { tag: number; reader: ByteReader } {
  const malformed = (problem: string) =>
    new PageliteError('invalid', `malformed ${frame.what} message: ${problem}`, { length: message.length });
  if (message.length < messageHeaderBytes) throw malformed(`cut short: ${message.length} bytes`);
  if (message.length > channelMessageBytesMax) throw malformed(`${message.length} bytes`);
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
  const tag = view.getUint8(0);
  const version = view.getUint8(1);
  if (view.getUint16(2, true) !== 0) throw malformed('reserved bytes are not zero');
  const bodyBytes = view.getUint32(4, true);
  if (bodyBytes !== message.length - messageHeaderBytes) {
    throw malformed(`${message.length - messageHeaderBytes} bytes of body where its header says ${bodyBytes}`);
  }
  const expected = view.getUint32(8, true);
  const actual = checksum(message);
  if (actual !== expected) {
    throw new PageliteError('corrupt', `wrong checksum of a ${frame.what} message`, { expected, actual });
  }
  if (version !== frame.version && tag !== frame.errorTag) {
    throw new PageliteError(
      'invalid',
      `the peer speaks version ${version} of the ${frame.what} protocol, this is version ${frame.version}`,
      { version },
    );
  }
  return { tag, reader: new ByteReader(message, `${frame.what} message ${tag}`, messageHeaderBytes) };
}

/** The decoded message, if all of its bytes were read. */
export function finishMessage<T>(reader: ByteReader, message: T): T {
  reader.end();
  return message;
}

export function writeErrorBody(error: PageliteError): ByteWriter {
  const text = utf8.encode(JSON.stringify(error.toJSON()));
  return beginMessage(text.length).put(text);
}

export function readErrorBody(reader: ByteReader): PageliteError {
  const text = reader.text(reader.remaining);
  let json: ErrorJson;
  try {
    json = JSON.parse(text) as ErrorJson;
  } catch {
    throw reader.invalid('not JSON');
  }
  return PageliteError.fromJSON(json);
}

function checksum(message: Uint8Array): number {
  return crc32c(message, messageHeaderBytes, message.length, crc32c(message, 0, 8));
}
