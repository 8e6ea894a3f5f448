//! Mistral and Llama decoders, generic over the backend that runs them
