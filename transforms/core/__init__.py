"""What everything else is built on: elements, reasons, errors, URIs."""
