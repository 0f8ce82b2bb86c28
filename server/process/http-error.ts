/** Errors of the HTTP APIs whose status code is not that of their kind (http-errors.ts). */
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { type ErrorKind, PageliteError } from '../../engine/errors.ts';

/** A PageliteError with a status code of its own. */
export class HttpError extends PageliteError {
  readonly status: ContentfulStatusCode;

  constructor(status: ContentfulStatusCode, kind: ErrorKind, message: string, data = {}) {
    super(kind, message, data);
    this.status = status;
  }
}
