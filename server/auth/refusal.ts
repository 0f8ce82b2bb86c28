/** Refusals of access, as the HTTP APIs and the handshakes of WebSockets answer them: 401 for a token that does not hold, 403 for one that opens something else. */
import { accessRefused } from '../../engine/errors.ts';
import { HttpError } from '../process/http-error.ts';

export const unauthorized = (message: string): HttpError => new HttpError(401, 'invalid', message, accessRefused);
export const forbidden = (message: string): HttpError => new HttpError(403, 'invalid', message, accessRefused);
