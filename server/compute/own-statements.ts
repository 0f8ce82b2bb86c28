/**
 * Statements of the backend's thread itself: the bytes of a message to the backend, and its answer as rows of text.
 *
 * The answers come from the backend, not from a client, so they are taken as they are. An ErrorResponse is thrown as BackendSqlError.
 */
import { BackendSqlError } from './session-state.ts';

export function frame(type: string, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(5 + body.length);
  bytes[0] = type.charCodeAt(0);
  new DataView(bytes.buffer).setUint32(1, 4 + body.length);
  bytes.set(body, 5);
  return bytes;
}

/** DataRow messages as text; an ErrorResponse is thrown. The bytes come from the backend itself. */
export function parseRows(bytes: Uint8Array): (string | null)[][] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const decoder = new TextDecoder();
  const rows: (string | null)[][] = [];
  for (let at = 0; at + 5 <= bytes.length; ) {
    const type = String.fromCharCode(bytes[at]!);
    const end = at + 1 + view.getUint32(at + 1);
    if (type === 'E') throw parseError(decoder.decode(bytes.subarray(at + 5, end)));
    if (type === 'D') {
      const row: (string | null)[] = [];
      let field = at + 7;
      for (let left = view.getUint16(at + 5); left > 0; left--) {
        const length = view.getInt32(field);
        field += 4;
        row.push(length < 0 ? null : decoder.decode(bytes.subarray(field, field + length)));
        if (length > 0) field += length;
      }
      rows.push(row);
    }
    at = end;
  }
  return rows;
}

function parseError(fields: string): BackendSqlError {
  const values = new Map(fields.split('\0').map((field) => [field[0], field.slice(1)]));
  return new BackendSqlError(values.get('C') ?? 'XX000', values.get('M') ?? 'unknown error', values.get('D'));
}
